"""A Milvus server that is stopped, killed and started again: `milvus-lite server`, a child."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from service.errors import IndexUnavailableError
from service.gallery import index as module
from service.gallery.entries import Entries, Picture
from service.gallery.index import VectorIndex
from service.settings import MilvusSettings
from service.telemetry import Telemetry


class Server:
    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._folder = folder
        self.start()

    def start(self) -> None:
        program = str(Path(sys.executable).parent / "milvus-lite")
        where = ["--data-dir", str(self._folder), "--host", "127.0.0.1", "--port", str(self.port)]
        self._process = subprocess.Popen(
            [program, "server", *where], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until(lambda: not socket.socket().connect_ex(("127.0.0.1", self.port)))

    def signal(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "milvus")
    yield server
    server.kill()


@pytest.fixture
def index(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[VectorIndex]:
    monkeypatch.setattr(module, "_SLOW_S", 0.5)
    settings = MilvusSettings(uri=f"http://127.0.0.1:{server.port}", timeout_s=1)
    index = VectorIndex(
        settings, tmp_path, bundle_id="b", telemetry=Telemetry(), embedding=2, match_state=2
    )
    vectors = np.ones((1, 2), np.float32)
    index.upsert(Entries("shop", (Picture("p", None, "i"),), vectors, vectors))
    yield index
    index.close()


def until(condition: Callable[[], object], within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def products(index: VectorIndex) -> list[str]:
    return [picture.product_id for picture in index.load("shop", 10).pictures]


def test_a_server_that_hangs_is_left_alone_until_it_answers(
    server: Server, index: VectorIndex
) -> None:
    server.signal(signal.SIGSTOP)
    with pytest.raises(IndexUnavailableError, match="Milvus failed"):
        index.load("shop", 10)
    assert index.breaker.is_open
    with pytest.raises(IndexUnavailableError, match="tried again meanwhile"):
        index.load("shop", 10)
    server.signal(signal.SIGCONT)
    until(lambda: not index.breaker.is_open)
    assert products(index) == ["p"]


def test_a_server_that_was_killed_is_found_again(server: Server, index: VectorIndex) -> None:
    server.kill()
    for _ in range(3):
        with pytest.raises(IndexUnavailableError, match="Milvus failed"):
            index.load("shop", 10)
    with pytest.raises(IndexUnavailableError, match="tried again meanwhile"):
        index.load("shop", 10)
    server.start()
    until(lambda: not index.breaker.is_open)
    assert products(index) == ["p"]
