"""A soak: good requests and bad ones by the thousand, and afterwards all is as it was."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx

from tests.faults.conftest import Record, Serve
from tests.faults.ledger import PICTURES
from tests.faults.load import in_lanes
from tests.faults.processes import Served, until
from tests.faults.scale import Scale
from tests.integration.material import Shop
from tests.service.media.material import png_bomb

_LANES = 3
_MOST_BYTES = 100_000_000
_COME_AND_GO = 4  # descriptors: two files of Milvus Lite's log, idle connections to Redis
_WARM_SHARE = 0.1  # of the requests, before the first look: what is kept for good is kept by then


def _kinds(shop: Shop) -> dict[str, Callable[[httpx.Client, int], httpx.Response]]:
    clip, bomb = shop.clips["product-0"], png_bomb(10_000)
    whole = {"shop_id": "shop"}

    def post(http: httpx.Client, number: int, images: bytes) -> httpx.Response:
        data = whole | {"product_id": f"{number % 50}", "title": f"{number}"}
        return http.post("/gallery", data=data, files={"images": images})

    return {
        "clip": lambda http, _: http.post("/recognize", data=whole, files={"clip": clip}),
        "frames": lambda http, n: http.post(
            "/recognize", data=whole, files={"frames": PICTURES[n % 12]}
        ),
        "explained": lambda http, n: http.post(
            "/recognize", data=whole | {"explain": "true"}, files={"frames": PICTURES[n % 12]}
        ),
        "cut clip": lambda http, _: http.post(
            "/recognize", data=whole, files={"clip": clip[: len(clip) // 2]}
        ),
        "no clip": lambda http, _: http.post("/recognize", data=whole, files={"clip": b"no clip"}),
        "post": lambda http, n: post(http, n, PICTURES[n % 12]),
        "bomb": lambda http, n: post(http, n, bomb),
        "delete": lambda http, n: http.delete(f"/gallery/shop/{n % 50}"),
        "list": lambda http, _: http.get("/gallery/shop"),
        "no shop": lambda http, n: http.get(f"/gallery/none-{n}"),
        "no path": lambda http, n: http.get(f"/none/{n}"),
        "health": lambda http, _: http.get("/healthz"),
        "metrics": lambda http, _: http.get("/metrics"),
    }


def _soak(served: Served, shop: Shop, requests: int, seed: int) -> Counter[str]:
    statuses: Counter[str] = Counter()
    kinds = _kinds(shop)

    def send(lane: int) -> None:
        rng = random.Random(f"{seed} {lane}")
        with httpx.Client(base_url=served.url, timeout=60, trust_env=False) as http:
            for number in range(requests // _LANES):
                kind = rng.choice(list(kinds))
                statuses[f"{kinds[kind](http, number).status_code // 100}xx"] += 1

    with in_lanes(_LANES, send):
        pass
    return statuses


def test_a_soak(scale: Scale, serve: Serve, shop: Shop, tmp_path: Path, record: Record) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    served = serve(TMPDIR=temporary)
    served.client.put_product("shop", "p", [PICTURES[0]])
    _soak(served, shop, round(_WARM_SHARE * scale.soaked), seed=1)
    resident, descriptors = served.resident_bytes(), served.descriptors()
    children, files = served.children(), sorted(temporary.rglob("*"))
    statuses = _soak(served, shop, scale.soaked, seed=2)
    until(lambda: served.children() == children, 60, "no child is left")
    until(lambda: served.descriptors() <= descriptors + _COME_AND_GO, 60, "no descriptor is left")
    until(lambda: sorted(temporary.rglob("*")) == files, 60, "no temporary file is left")
    grown = served.resident_bytes() - resident
    left = sorted(temporary.rglob("*"))
    record(
        "no leaks",
        "20,000 requests: <= 100 MB growth, 0 leaked descriptors, children, temporary files",
        f"{sum(statuses.values())} requests {dict(sorted(statuses.items()))}: grown by "
        f"{grown / 1e6:.0f} MB; descriptors {descriptors} -> {served.descriptors()}, children "
        f"{len(children)} -> {len(served.children())}, temporary files {len(files)} -> {len(left)}",
        f"{len(_kinds(shop))} kinds of requests, good and bad, by {_LANES} clients",
    )
    assert "5xx" not in statuses
    assert grown <= _MOST_BYTES
