"""A clean drain: asked to stop under load, the service fails nobody."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass

import httpx

from tests.faults.conftest import Record, Serve
from tests.faults.ledger import PICTURES
from tests.faults.load import FAILED, in_lanes, slug_of
from tests.faults.processes import Served, until
from tests.faults.scale import Scale
from tests.integration.material import Shop

_LANES = 4
_DRAIN_S = 2.0
_LONG_DRAIN_S = 8.0  # on a busy machine a balancer may look late
_PRESENT_A_PROBE_S = 0.2  # how often a load balancer looks, in this test


@dataclass
class _Balancer:
    """Sends nobody to a service that said it is unready, as a load balancer does."""

    ready: threading.Event
    failed: list[str]
    answered: int = 0

    def send(self, served: Served, lane: int, clip: bytes) -> None:
        with httpx.Client(base_url=served.url, timeout=60, trust_env=False) as http:
            while self.ready.is_set():
                status, slug = self._one(http, lane, clip)
                if status in (200, 201, 429):
                    self.answered += 1
                else:
                    self.failed.append(f"{status} {slug}")

    def _one(self, http: httpx.Client, lane: int, clip: bytes) -> tuple[int, str]:
        try:
            if lane % 2:
                data = {"shop_id": "shop", "product_id": f"{lane}"}
                response = http.post("/gallery", data=data, files={"images": PICTURES[lane]})
            else:
                response = http.post("/recognize", data={"shop_id": "shop"}, files={"clip": clip})
        except httpx.TransportError as error:
            return FAILED, type(error).__name__
        return response.status_code, slug_of(response)


def test_stops_under_load(scale: Scale, serve: Serve, shop: Shop, record: Record) -> None:
    rng = random.Random(6)
    unready_s: list[float] = []
    gone_s: list[float] = []
    statuses: set[int] = set()
    failed: list[str] = []
    answered = 0
    for _ in range(scale.stops):
        served = serve(LPR_DRAIN_S=_DRAIN_S if scale.full else _LONG_DRAIN_S)
        served.client.put_product("shop", "0", [PICTURES[0]])
        balancer = _Balancer(threading.Event(), failed)
        balancer.ready.set()
        clip = shop.clips["product-0"]
        with in_lanes(_LANES, lambda lane: balancer.send(served, lane, clip)):  # noqa: B023
            time.sleep(rng.uniform(0.2, 1.0))
            asked = time.monotonic()
            served.terminate()
            unready_s.append(until(lambda: not served.is_ready(), 60, "unready"))  # noqa: B023
            time.sleep(_PRESENT_A_PROBE_S)
            balancer.ready.clear()
        statuses.add(served.wait(60))
        gone_s.append(time.monotonic() - asked)
        answered += balancer.answered
    record(
        "clean drain",
        "50 SIGTERMs under load: 0 failed requests, unready <= 1 s, gone <= 30 s",
        f"{scale.stops} SIGTERMs, {answered} answers: {len(failed)} failed; unready after at most "
        f"{max(unready_s):.2f} s, gone after at most {max(gone_s):.1f} s",
        f"4 clients behind a balancer that looks every {_PRESENT_A_PROBE_S} s",
    )
    assert not failed
    assert statuses == {0}
    assert answered > scale.stops
    if scale.full:
        assert max(unready_s) <= 1
    assert max(gone_s) <= 30
