"""A Milvus server that is stopped, killed and started again: `milvus-lite server`, a child."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.freezing import freeze, thaw


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

    def freeze(self) -> None:
        freeze(self._process)

    def thaw(self) -> None:
        thaw(self._process)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def until(condition: Callable[[], object], within_s: float = 60) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
