"""A running service for the length of a `with` block: `lpr serve` as a child process.

Knows how `lpr serve` announces its address (one JSON line of its log) and how it is asked to stop
(SIGTERM); knows nothing else of it. Used by the demo and by the integration tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.client import Client
from service.errors import StartupError

START_S = 120.0
STOP_S = 30.0


class ServiceProcess:
    """One `lpr serve` child; its log is `service.log` in the data directory."""

    program: tuple[str, ...] = (sys.executable, "-m", "service")

    def __init__(self, data_dir: Path, port: int = 0, **env: object) -> None:
        data_dir.mkdir(parents=True, exist_ok=True)
        self.log = data_dir / "service.log"
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        command = [*self.program, "serve"]
        command += ["--port", str(port), "--data-dir", str(data_dir)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own command, no shell
                command,
                env=os.environ | {name: str(value) for name, value in env.items()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait_address(self, timeout_s: float = START_S) -> str:
        """The address it listens on, as soon as it does. Raises StartupError if it never will."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            address = self._announced()
            if address is not None:
                return address
            self._check_alive()
            time.sleep(0.05)
        raise StartupError(f"the service did not start in {timeout_s:.0f} s; see {self.log}")

    def wait_ready(self, client: Client, timeout_s: float = START_S) -> None:
        """Raises StartupError if the child ends before it is ready."""
        deadline = time.monotonic() + timeout_s
        while not client.is_ready():
            self._check_alive()
            if time.monotonic() > deadline:
                raise StartupError(f"not ready after {timeout_s:.0f} s; see {self.log}")
            time.sleep(0.05)

    def stop(self) -> int:
        """Ask it to drain and end; kill it if it does not. Returns its exit status."""
        self.process.terminate()
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def _announced(self) -> str | None:
        for line in self._log_lines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and record.get("event") == "listening":
                return str(record["address"])
        return None

    def _check_alive(self) -> None:
        status = self.process.poll()
        if status is not None:
            last = "\n".join(self._log_lines()[-5:])
            raise StartupError(f"the service ended with status {status}; its last words:\n{last}")

    def _log_lines(self) -> list[str]:
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace").splitlines()


@contextmanager
def running_service(
    data_dir: Path, port: int = 0, *, key: str | None = None, **env: object
) -> Iterator[Client]:
    """A ready service on `data_dir`, stopped cleanly at the end.

    `env` are further environment variables, e.g. `LPR_BUNDLE=path`. Port 0 takes a free one; the
    client's `base_url` tells which. `key` is what the client sends. Raises StartupError with the
    end of its log if it cannot start.
    """
    service = ServiceProcess(data_dir, port, **env)
    try:
        with Client(service.wait_address(), key=key) as client:
            service.wait_ready(client)
            yield client
    finally:
        service.stop()
