"""Clients that are slow, or leave: what they hold is given back, and others are served."""

from __future__ import annotations

import contextlib
import io
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from PIL import Image

from service.client import Client
from service.launch import ServiceProcess
from tests.integration.material import Shop
from tests.service.media.material import stub

HEAD_S = 1.0
ANSWER_S = 4.0
DEADLINE_S = 10
LARGE_BYTES = 10_000_000
HEAD = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


class Served:
    def __init__(self, process: ServiceProcess, client: Client) -> None:
        self.process = process
        self.client = client
        self.http = httpx.Client(base_url=client.base_url, trust_env=False, timeout=60)

    def connect(self) -> socket.socket:
        address = urlsplit(self.client.base_url)
        return socket.create_connection((address.hostname, address.port), timeout=60)

    def metric(self, line: str) -> float:
        (value,) = (
            said.rpartition(" ")[2]
            for said in self.http.get("/metrics").text.splitlines()
            if said.startswith(f"{line} ")
        )
        return float(value)

    def holds(self, connection: socket.socket) -> bool:
        """Whether its end of the connection is still open."""
        ours = f":{connection.getsockname()[1]:04X}"
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        ends = [line.split()[2:4] for line in lines]
        return any(remote.endswith(ours) and state == "01" for remote, state in ends)

    def decoders(self) -> int:
        """Processes of the service that decode a clip."""
        return sum(map(_decodes, psutil.Process(self.process.process.pid).children(recursive=True)))


@pytest.fixture(scope="module")
def served(
    tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory, shop: Shop
) -> Iterator[Served]:
    process = ServiceProcess(
        tmp_path_factory.mktemp("slow"),
        LPR_BUNDLE=tiny_bundle,
        LPR_DRAIN_S=0,
        LPR_HEAD_TIMEOUT_S=HEAD_S,
        LPR_ANSWER_TIMEOUT_S=ANSWER_S,
        LPR_DEADLINE_S=DEADLINE_S,
        LPR_MEDIA__DECODE_WALL_S=10 * DEADLINE_S,
        IMAGEIO_FFMPEG_EXE=stub(tmp_path_factory.mktemp("stub"), "sleep 1000"),
    )
    try:
        with Client(process.wait_address()) as client:
            process.wait_ready(client)
            client.put_product("shop", "p", [shop.pictures["product-0"]])
            yield Served(process, client)
    finally:
        process.stop()


@pytest.fixture(scope="module")
def large_picture(served: Served) -> str:
    """The path of an answer that is larger than the kernel takes off the service's hands."""
    noise = Image.effect_noise((4_000, 4_000), 100)
    data = io.BytesIO()
    noise.save(data, "PNG")
    product = served.client.put_product("shop", "large", [data.getvalue()])
    return f"/gallery/shop/large/images/{product['images'][0]['image_id']}"


@pytest.fixture(scope="module")
def endless_clip(shop: Shop) -> bytes:
    """One that workers leave to ffmpeg, which here never ends."""
    clip = shop.clips["product-0"]
    return clip[: len(clip) // 2]


def _decodes(process: psutil.Process) -> bool:
    """An ffmpeg child, or a worker: forked, so its command is that of its parent."""
    with contextlib.suppress(psutil.NoSuchProcess):
        command, parent = process.cmdline(), process.parent()
        return "-nostdin" in command or (parent is not None and command == parent.cmdline())
    return False


def until(condition: Callable[[], bool], within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def request_of(served: Served, clip: bytes) -> bytes:
    request = httpx.Request(
        "POST",
        f"{served.client.base_url}/recognize",
        data={"shop_id": "shop"},
        files={"clip": clip},
    )
    body = request.read()
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    return f"POST /recognize HTTP/1.1\r\n{head}\r\n".encode() + body


def reset(connection: socket.socket) -> None:
    """Close with RST, as a client that died does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.parametrize(
    "beginning",
    [
        b"",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nG",
    ],
    ids=["nothing", "half a head", "half a second head"],
)
def test_half_a_head_is_not_waited_for(served: Served, beginning: bytes) -> None:
    with served.connect() as connection:
        connection.sendall(beginning)
        while connection.recv(65_536):
            pass


def test_a_body_that_is_refused_is_not_taken_in_for_ever(served: Served) -> None:
    with served.connect() as connection:
        connection.sendall(
            b"POST /recognize HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
            b"Content-Encoding: gzip\r\n\r\n"
        )
        assert b" 415 " in connection.recv(65_536)
        with pytest.raises(OSError):
            for _ in range(1_000):
                connection.sendall(b"x")
                time.sleep(0.02)


def test_a_client_with_a_whole_head_may_take_its_time(served: Served, shop: Shop) -> None:
    request = request_of(served, shop.clips["product-0"])
    with served.connect() as connection:
        connection.sendall(request[:-100])
        time.sleep(1.5 * HEAD_S)  # what is tried is that nothing happens meanwhile
        connection.sendall(request[-100:])
        assert connection.recv(65_536).startswith(b"HTTP/1.1 200 ")


def test_an_answer_that_nobody_takes_is_not_kept_for_ever(
    served: Served, large_picture: str
) -> None:
    with served.connect() as connection:
        connection.sendall(f"GET {large_picture} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert served.holds(connection)
        until(lambda: not served.holds(connection))
        taken = 0
        while chunk := connection.recv(1 << 20):
            taken += len(chunk)
    assert 0 < taken < LARGE_BYTES


def test_who_takes_an_answer_in_time_gets_it_whole(served: Served, large_picture: str) -> None:
    answer = served.http.get(large_picture)
    assert len(answer.content) == int(answer.headers["content-length"]) >= LARGE_BYTES


def test_a_client_that_leaves_takes_its_decoder_along(served: Served, endless_clip: bytes) -> None:
    left = 'lpr_failures_total{reason="client-left"}'
    before = served.metric(left)
    connection = served.connect()
    connection.sendall(request_of(served, endless_clip))
    until(lambda: served.decoders() > 0)
    reset(connection)
    until(lambda: served.metric(left) > before)  # else its deadline would have ended it
    until(lambda: served.decoders() == 0)
    until(lambda: served.metric('lpr_in_flight{kind="recognize"}') == 0)


def test_the_deadline_is_answered_as_such(served: Served, endless_clip: bytes) -> None:
    answer = served.http.post("/recognize", data={"shop_id": "shop"}, files={"clip": endless_clip})
    assert answer.status_code == 504
    assert answer.json()["type"] == "/problems/deadline-exceeded"
    assert answer.headers["retry-after"]
    until(lambda: served.decoders() == 0)


def test_a_crowd_of_slow_clients_shuts_nobody_out_of_the_probes(served: Served) -> None:
    with ExitStack() as crowd:
        for place in range(300):
            connection = crowd.enter_context(served.connect())
            connection.sendall((b"GET / HT", b"POST /recognize HTTP/1.1\r\nHost: x\r\n")[place % 2])
        for path in ("/healthz", "/readyz", "/metrics"):
            assert served.http.get(path).status_code == 200
