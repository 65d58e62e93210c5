"""A real Milvus server for tests, from the `milvus` wheel in an environment of its own.

`make milvus-server` installs it; `TEST_MILVUS_PYTHON` names the Python of another place. There is
one at a time on a machine (in a network namespace), for some of its ports are fixed: tests in other
processes wait for their turn.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

import grpc
import pytest
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException

from tests.ports import free_port

START_S = 90.0
_END_S = 10.0
_ETCD_PEER = 2380
# The wheel's own start, but ports that a killed server has just left are taken again.
_LAUNCH = """
import milvus, socket

class Reusing(socket.socket):
    def bind(self, address):
        self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        super().bind(address)

socket.socket = Reusing
milvus.main()
"""


def milvus_python() -> Path | None:
    """The Python that has the wheel, None where there is none."""
    named = os.environ.get("TEST_MILVUS_PYTHON")
    python = Path(named) if named else Path(sys.prefix) / "milvus" / "bin" / "python"
    return python if python.exists() else None


class MilvusServer:
    """One server on `folder`, which it finds again when it is started again, on the same port."""

    def __init__(self, folder: Path, python: Path) -> None:
        self._folder = folder
        self._python = python
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._turn = (Path(tempfile.gettempdir()) / "milvus-of-tests.lock").open("ab")
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._turn.close()

    def start(self, timeout_s: float = START_S) -> None:
        """Return once it answers."""
        self.launch()
        deadline = time.monotonic() + timeout_s
        while not self.answers():
            assert self._process is not None
            assert self._process.poll() is None, "the Milvus server ended"
            assert time.monotonic() < deadline, f"no Milvus server within {timeout_s:g} s"
            time.sleep(0.2)

    def launch(self) -> None:
        """Start it, and wait for nothing."""
        assert not _listens(_ETCD_PEER), f"another Milvus or etcd listens on port {_ETCD_PEER}"
        self._process = subprocess.Popen(
            [
                *(str(self._python), "-c", _LAUNCH, "--data", str(self._folder)),
                *("--proxy-port", str(self.port)),
                # After a kill it waits for the leases of its former self: not for 30 s.
                *("--extra-config", "common.session.ttl=5"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # the wheel's script and the server it starts end together
        )

    def answers(self) -> bool:
        if not _listens(self.port):
            return False
        try:
            client = MilvusClient(uri=self.uri, timeout=1)
        except (MilvusException, grpc.RpcError, grpc.FutureTimeoutError):
            return False
        try:
            client.list_collections(timeout=1)
            return True
        except (MilvusException, grpc.RpcError):
            return False
        finally:
            client.close()

    def kill(self) -> None:
        """SIGKILL; returns when its ports are free again."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()
        deadline = time.monotonic() + _END_S
        while _listens(_ETCD_PEER) and time.monotonic() < deadline:
            time.sleep(0.05)

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)


def server_at(folder: Path) -> MilvusServer:
    """A server that is started by `with`; skips the test where there is none to start."""
    python = milvus_python()
    if python is None:
        pytest.skip("no Milvus server: `make milvus-server`")
    return MilvusServer(folder, python)


def _listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1):
            return True
    except OSError:
        return False
