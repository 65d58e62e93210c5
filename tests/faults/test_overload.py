"""Overload and slow clients: who cannot be served is told so at once, the others notice little."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.faults.conftest import Record, Serve
from tests.faults.ledger import PICTURES
from tests.faults.load import Prepared, Samples, closed_loop, open_loop
from tests.faults.processes import Served, until
from tests.faults.scale import Scale
from tests.integration.material import Shop
from tests.integration.test_jobs import as_lines

pytestmark = pytest.mark.alone

_TIMES = 10
_TAKEN = (200, 201, 202)
_PATHS = ("/recognize", "/gallery", "/gallery/batch")
_SHARE_UNLOADED = 0.25  # of what it can do: requests seldom meet each other
_SHARE_BESIDE_OTHERS = 0.1  # where others may take the machine meanwhile


def _requests(shop: Shop) -> list[Prepared]:
    recognize = [
        Prepared.post("/recognize", data={"shop_id": "shop"}, files={"clip": clip})
        for clip in shop.clips.values()
    ]
    posts = [
        Prepared.post(
            "/gallery",
            data={"shop_id": "other", "product_id": f"{place}"},
            files={"images": PICTURES[place]},
        )
        for place in range(2)
    ]
    batch = Prepared.post(
        "/gallery/batch",
        data={"shop_id": "batches"},
        files={"batch": as_lines({"a": PICTURES[0], "b": PICTURES[1]})},
    )
    return [*recognize, *posts, batch]


def test_ten_times_the_load(
    scale: Scale, serve: Serve, default_bundle: Path, shop: Shop, record: Record
) -> None:
    served = serve(LPR_BUNDLE=default_bundle)
    for product_id, jpeg in shop.pictures.items():
        served.client.put_product("shop", product_id, [jpeg])
    requests = _requests(shop)
    closed_s = 30.0 if scale.full else 3.0
    calm_s = 100.0 if scale.full else 3.0  # for a hundred batches: a p99 of fewer is their slowest
    capacity = (
        len(closed_loop(served.url, requests, lanes=2, for_s=closed_s).of(*_TAKEN)) / closed_s
    )
    share = _SHARE_UNLOADED if scale.full else _SHARE_BESIDE_OTHERS
    calm = open_loop(served.url, requests, per_s=share * capacity, for_s=calm_s)
    storm = open_loop(served.url, requests, per_s=_TIMES * capacity, for_s=scale.overload_s)
    after = open_loop(served.url, requests, per_s=share * capacity, for_s=max(closed_s, 15), seed=1)
    taken, refused = storm.of(*_TAKEN), storm.of(429)
    ratios = {path: _ratio(taken, calm, path) for path in _PATHS}
    record(
        "overload is refused fast",
        "10x open-loop load for minutes: only 200 and 429; refusals p99 <= 50 ms; accepted p99 "
        "<= 2x unloaded; normal within 10 s after",
        f"{_TIMES * capacity:.0f} requests/s for {scale.overload_s:.0f} s: {storm.counts()}; "
        f"refusals p99 {refused.p99_ms():.0f} ms, of which the load's own "
        f"{refused.lag_p99_ms():.0f} ms; accepted p99 "
        + ", ".join(f"{path} {ratio:.1f}x" for path, ratio in ratios.items())
        + f" unloaded; after 10 s {after.after(10).counts()}, p99 "
        f"{_ratio(after.after(10), calm, '/recognize'):.1f}x",
        f"shipped bundle, 6 recognitions, 2 posts, 1 batch by turns, capacity {capacity:.1f}/s",
    )
    assert storm.counts().keys() <= {*_TAKEN, 429}, storm.slugs()
    assert calm.counts().keys() <= set(_TAKEN), calm.slugs()
    assert after.after(10).counts().keys() <= set(_TAKEN), after.slugs()
    assert taken, "some are served"
    assert refused, "the load was more than it can do"
    if scale.full:
        assert refused.p99_ms() <= 50
        assert max(ratios.values()) <= 2
        assert _ratio(after.after(10), calm, "/recognize") <= 2


def _ratio(samples: Samples, calm: Samples, path: str) -> float:
    unloaded = calm.to(path).p99_ms()
    return samples.to(path).p99_ms() / unloaded if unloaded else 0.0


def test_slow_sockets(scale: Scale, serve: Serve, shop: Shop, record: Record) -> None:
    """Clients that send a head and then a byte a second do not keep others out for long."""
    served = serve(LPR_BODY_TIMEOUT_S=5)
    served.client.put_product("shop", "p", [PICTURES[0]])
    with ExitStack() as sockets:
        slow = [sockets.enter_context(_slow(served)) for _ in range(scale.slow_sockets)]
        health = [_health_s(served) for _ in range(20)]
        bytes_sent = 0
        while any(_is_open(connection) for connection in slow) and bytes_sent < 60:
            for connection in slow:
                _drip(connection)
            bytes_sent += 1
            health.append(_health_s(served))
            time.sleep(1)
    until(lambda: served.metric('lpr_in_flight{kind="recognize"}') == 0, 60, "all left")
    answer = served.client.recognize("shop", shop.clips["product-0"])
    record(
        "slow clients",
        "500 slow sockets: health still answers, all are closed, 429 or 408",
        f"{scale.slow_sockets} slow sockets: /healthz within {1e3 * max(health):.0f} ms, all "
        f"closed within {bytes_sent} s",
        "LPR_BODY_TIMEOUT_S=5",
    )
    assert bytes_sent < 60
    assert answer["candidates"]
    if scale.full:
        assert max(health) <= 1


def _slow(served: Served) -> socket.socket:
    address = urlsplit(served.url)
    connection = socket.create_connection((address.hostname, address.port), timeout=60)
    connection.sendall(
        b"POST /recognize HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b"
    )
    connection.setblocking(False)
    return connection


def _drip(connection: socket.socket) -> None:
    try:
        connection.send(b"x")
    except (BlockingIOError, ConnectionError):
        return


def _is_open(connection: socket.socket) -> bool:
    """Whether the service has neither answered nor closed it."""
    try:
        return connection.recv(1, socket.MSG_PEEK) is None
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


def _health_s(served: Served) -> float:
    start = time.perf_counter()
    assert served.http.get("/healthz").status_code == 200
    assert served.http.get("/metrics").status_code == 200
    return time.perf_counter() - start
