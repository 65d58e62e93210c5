"""One fault after the other, and the alert of each, from a real Prometheus with the real rules.

The service is the one that `tests.faults` breaks: its model fails on demand, its disk is small, its
Milvus is a child of the test. `test_live.py` has the quiet run, in which nothing may fire, and
Redis; `rules_test.yml` has every alert, also those that take hours.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.faults.disks import SmallDisk
from tests.faults.processes import Served, until
from tests.integration.material import clip, picture
from tests.integration.test_jobs import as_lines, post_batch
from tests.operations.conftest import FACTOR
from tests.operations.prometheus import Prometheus, scraping
from tests.service.lite_server import Server

_WITHIN_S = 120.0
_NO_CLIP = clip(picture(0))[:1_000]  # of a container that is allowed, and nothing to decode
_LANES = 6

Send = Callable[[httpx.Client, int], object]


@dataclass
class Broken:
    """A service with faults inside, and who watches it."""

    served: Served
    prometheus: Prometheus
    milvus: Server
    model_fails: Path  # while it is there
    disk: SmallDisk | None

    def fires(self, *alerts: str) -> None:
        def all_fire() -> bool:
            return set(alerts) <= self.prometheus.firing()

        self.prometheus.wait(all_fire, _WITHIN_S, f"{alerts} fire")

    @contextmanager
    def traffic(self, send: Send, lanes: int = 1) -> Iterator[None]:
        """`send(http, number)` again and again for the length of the block."""
        over = threading.Event()

        def work(lane: int) -> None:
            with httpx.Client(base_url=self.served.url, trust_env=False, timeout=60) as http:
                number = lane
                while not over.is_set():
                    send(http, number)
                    number += lanes

        threads = [threading.Thread(target=work, args=(lane,)) for lane in range(lanes)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()


@pytest.fixture(scope="module")
def broken(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broken]:
    folder = tmp_path_factory.mktemp("broken")
    with ExitStack() as stack:
        disk = _small_disk(folder / "data", stack)
        milvus = Server(folder / "milvus")
        stack.callback(milvus.kill)
        switch = folder / "most_pictures"
        served = stack.enter_context(
            Served(
                folder / "data",
                program=(*(disk.inside if disk else ()), *_FAILING),
                FAIL_SESSIONS=switch,
                LPR_BUNDLE=tiny_bundle,
                LPR_MILVUS__URI=f"http://127.0.0.1:{milvus.port}",
                LPR_MAX_IN_FLIGHT=2,
                LPR_MAX_WAITING=0,
                LPR_JOBS__TAKEOVER_S=1,
                LPR_DRAIN_S=0,
            )
        )
        for shop_id in ("shop", "cold"):
            served.client.put_product(shop_id, "p", [picture(0)])
        target = urlsplit(served.url).netloc
        prometheus = stack.enter_context(scraping([target], folder, FACTOR))
        yield Broken(served, prometheus, milvus, switch, disk)


_FAILING = (sys.executable, "-m", "tests.faults.failing")


def _small_disk(folder: Path, stack: ExitStack) -> SmallDisk | None:
    try:
        return stack.enter_context(SmallDisk(folder, megabytes=12))
    except pytest.skip.Exception:  # nobody may mount here; the other faults need no disk
        folder.mkdir(exist_ok=True)
        return None


def test_a_model_that_fails_clips_that_cannot_be_decoded_and_jobs_given_up(broken: Broken) -> None:
    broken.model_fails.write_text("0")
    post_batch(broken.served.http, as_lines({"a": picture(1)}), "shop")

    def send(http: httpx.Client, number: int) -> None:
        file = {"clip": _NO_CLIP} if number % 2 else {"frames": picture(0)}
        http.post("/recognize", data={"shop_id": "shop"}, files=file)

    with broken.traffic(send):
        broken.fires("LPRInferenceFailing", "LPRNotReady", "LPRFailing")
        broken.fires("LPRDecodingFailing", "LPRJobsDead")
    broken.model_fails.unlink()
    until(broken.served.is_ready, _WITHIN_S, "the model runs again")


def test_milvus_that_is_killed(broken: Broken) -> None:
    broken.milvus.kill()

    def send(http: httpx.Client, number: int) -> None:
        http.post("/recognize", data={"shop_id": "cold"}, files={"frames": picture(0)})

    with broken.traffic(send):
        broken.fires("LPRMilvusFailing")
    broken.milvus.start()


def test_more_load_than_it_takes(broken: Broken) -> None:
    def send(http: httpx.Client, number: int) -> None:
        http.post("/recognize", data={"shop_id": "shop"}, files={"frames": picture(0)})

    with broken.traffic(send, _LANES):
        broken.fires("LPROverloaded")


def test_a_disk_that_is_full(broken: Broken) -> None:
    if broken.disk is None:
        pytest.skip("nobody may mount a small disk here")

    def send(http: httpx.Client, number: int) -> None:
        fields = {"shop_id": "large", "product_id": f"{number}"}
        http.post("/gallery", data=fields, files={"images": _large(number)})

    with broken.traffic(send):
        broken.fires("LPRStorageFull")


def test_a_service_that_is_killed(broken: Broken) -> None:
    """The last one."""
    broken.served.kill()
    broken.fires("LPRDown")


def _large(seed: int) -> bytes:
    """A picture with bytes behind its end that no decoder minds, unlike any other's."""
    return picture(seed) + os.urandom(500_000)
