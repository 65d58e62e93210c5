"""Clients that leave: what was begun for them alone is given up, what was accepted goes on."""

from __future__ import annotations

import socket
import struct
import time
from urllib.parse import urlsplit

import httpx
import pytest

from tests.faults.conftest import Record, Serve, StubFfmpeg, cut_short
from tests.faults.ledger import PICTURES
from tests.faults.processes import Served, until
from tests.faults.scale import Scale
from tests.integration.material import Shop

pytestmark = pytest.mark.alone


def _send(served: Served, path: str, share: float = 1.0, **content: object) -> socket.socket:
    """A connection on which a request was sent, or only the first `share` of its body."""
    request = httpx.Request("POST", f"{served.url}{path}", **content)
    body = request.read()
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    address = urlsplit(served.url)
    connection = socket.create_connection((address.hostname, address.port), timeout=60)
    connection.sendall(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode())
    connection.sendall(body[: int(share * len(body))])
    return connection


def _reset(connection: socket.socket) -> None:
    """Leave with RST, not with a goodbye."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _in_flight(served: Served, kind: str) -> float:
    return served.metric(f'lpr_in_flight{{kind="{kind}"}}')


def test_leaving_in_the_middle_of_a_body(serve: Serve, shop: Shop, record: Record) -> None:
    served = serve()
    served.client.put_product("shop", "p", [PICTURES[0]])
    freed_s = 0.0
    for number in range(25):
        if number == 5:  # what is opened once is open by now
            descriptors = served.descriptors()
        form = {"data": {"shop_id": "shop"}, "files": {"clip": shop.clips["product-0"]}}
        connection = _send(served, "/recognize", share=0.5, **form)
        until(lambda: _in_flight(served, "recognize") == 1, 60, "the body is read")
        _reset(connection)
        freed_s = max(
            freed_s, until(lambda: _in_flight(served, "recognize") == 0, 60, "it is freed")
        )
    until(lambda: served.descriptors() <= descriptors, 60, "no descriptor is left")
    left = served.descriptors() - descriptors
    record(
        "client disconnect in mid-body",
        "everything freed, no 5xx",
        f"25 RSTs: freed after at most {freed_s:.2f} s, {left} descriptors left",
        "",
    )
    assert served.metric('lpr_failures_total{reason="internal"}') == 0


def test_leaving_while_waiting_for_a_recognition(
    scale: Scale, serve: Serve, shop: Shop, stub_ffmpeg: StubFfmpeg, record: Record
) -> None:
    patient = {"LPR_MEDIA__DECODE_WALL_S": 300, "LPR_DEADLINE_S": 300}
    served = serve(**stub_ffmpeg("sleep 1000"), **patient)
    served.client.put_product("shop", "p", [PICTURES[0]])
    standing = served.children()
    form = {"data": {"shop_id": "shop"}, "files": {"clip": cut_short(shop.clips["product-0"])}}
    connection = _send(served, "/recognize", **form)
    until(lambda: len(served.children()) > len(standing), 60, "the decoder runs")
    _reset(connection)
    started = time.monotonic()
    until(lambda: served.children() == standing, 60, "the decoder is gone")
    until(lambda: _in_flight(served, "recognize") == 0, 60, "its place is free")
    seconds = time.monotonic() - started
    record(
        "client disconnect while waiting",
        "recognition cancelled <= 1 s",
        f"decoder killed and place free after {seconds:.2f} s",
        "a decoder that hangs, killed only because its client left",
    )
    if scale.full:
        assert seconds <= 1


def test_leaving_after_a_post_was_sent(serve: Serve, record: Record) -> None:
    """A reset may overtake a body that the service has not read, which was then not accepted: that
    post comes again. Were accepted ones ended with their client, hardly any would ever be stored.
    """
    served = serve()
    cut_off = 0
    while (number := _stored(served)) < 20:
        fields = {"shop_id": "shop", "product_id": f"{number}"}
        connection = _send(served, "/gallery", data=fields, files={"images": PICTURES[number % 12]})
        until(lambda: _in_flight(served, "gallery") >= 1 or _stored(served) > number, 60, "taken")
        _reset(connection)
        until(lambda: _in_flight(served, "gallery") == 0, 60, "the post is over")
        cut_off += _stored(served) == number
        assert cut_off <= 40, "posts end with their client, accepted or not"
    answer = served.client.recognize_frames("shop", [PICTURES[0]], top_k=100)
    record(
        "client disconnect after a post",
        "accepted indexing goes on",
        f"20 accepted posts whose client left: {len(answer['candidates'])} found; "
        f"{cut_off} were cut off before they were read",
        "",
    )
    assert len(answer["candidates"]) == 20


def _stored(served: Served) -> int:
    response = served.http.get("/gallery/shop")
    return len(response.json()["products"]) if response.status_code == 200 else 0
