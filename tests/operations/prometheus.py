"""A real Prometheus on loopback, with the project's own rules.

Debian's package has the binary: `make operations-tools`. Time is the one thing that tests change:
`faster` divides every duration of the rules, so that what takes minutes is over in seconds.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.ports import free_port

DEPLOY = Path(__file__).parents[2] / "deploy"
SCRAPE_S = 1
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def binary(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: `make operations-tools` does it on Debian")
    return found


def faster(rules: str, factor: float) -> str:
    """Every `[5m]`, `for: 1m`, `offset 30m` and `interval: 15s`, divided; none below 2 scrapes."""

    def shorten(found: re.Match[str]) -> str:
        seconds = int(found["number"]) * _UNITS[found["unit"]] / factor
        return f"{found['before']}{max(2 * SCRAPE_S, round(seconds))}s"

    return re.sub(
        r"(?P<before>\[|for: |offset |interval: )(?P<number>\d+)(?P<unit>[smhd])\b", shorten, rules
    )


class Prometheus:
    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, trust_env=False, timeout=60)

    def query(self, expr: str, at: float | None = None) -> list[dict[str, Any]]:
        """An instant query's vector; of now, or of a Unix time."""
        when = {} if at is None else {"time": at}
        return self._get("/api/v1/query", query=expr, **when)["result"]

    def query_range(self, expr: str, start: float, end: float, step: float) -> list[dict[str, Any]]:
        return self._get("/api/v1/query_range", query=expr, start=start, end=end, step=step)[
            "result"
        ]

    def firing(self) -> set[str]:
        alerts = self._get("/api/v1/alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in self._get("/api/v1/rules")["groups"] for rule in group["rules"]]

    def wait(self, holds: Callable[[], bool], timeout_s: float, what: str) -> None:
        deadline = time.monotonic() + timeout_s
        while not holds():
            assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}"
            time.sleep(0.5)

    def _get(self, path: str, **params: object) -> Any:
        answer = self._http.get(path, params=params)
        body = answer.json()
        assert body["status"] == "success", f"{params}: {body.get('error')}"
        return body["data"]


@contextmanager
def scraping(targets: Sequence[str], folder: Path, factor: float) -> Iterator[Prometheus]:
    """A Prometheus that scrapes `targets` (host:port) as job `lpr`."""
    program = binary("prometheus")
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"}
    [job] = [job for job in config["scrape_configs"] if job["job_name"] == "lpr"]
    job["static_configs"] = [{"targets": list(targets)}]
    config["scrape_configs"] = [job]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    for name in config["rule_files"]:
        rules = (DEPLOY / "prometheus" / name).read_text()
        (folder / name).write_text(faster(rules, factor))
    port = free_port()
    with (folder / "prometheus.log").open("wb") as log:
        child = subprocess.Popen(
            [
                program,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--enable-feature=exemplar-storage",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        server = Prometheus(f"http://127.0.0.1:{port}")
        server.wait(lambda: _is_up(port, child), 60, "Prometheus is up")
        yield server
    finally:
        child.terminate()
        child.wait(60)


def _is_up(port: int, child: subprocess.Popen[bytes]) -> bool:
    assert child.poll() is None, "Prometheus ended; see prometheus.log"
    try:
        ready = httpx.get(f"http://127.0.0.1:{port}/-/ready", trust_env=False, timeout=60)
        return ready.status_code == 200
    except httpx.TransportError:
        return False
