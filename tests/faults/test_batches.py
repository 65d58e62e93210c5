"""The largest batch there may be, in one post over HTTP: taken, told by item, and all found."""

from __future__ import annotations

import time

import numpy as np

from tests.faults.conftest import Record, Serve
from tests.faults.processes import peak_memory
from tests.faults.scale import Scale
from tests.integration.test_jobs import ended, found, post_batch
from tests.service.jobs.material import encoded, lines
from tests.service.media.material import Image
from tests.service.media.material import encoded as as_file

_MOST_BYTES = 300_000_000
_WITHIN_S = 900


def _small(number: int) -> bytes:
    """A picture of a few hundred bytes, unlike any other's."""
    squares = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return as_file(Image.fromarray(squares).resize((32, 32), Image.Resampling.NEAREST), "PNG")


def _body(products: dict[str, str]) -> bytes:
    return lines(
        [
            {"shop_id": shop_id, "product_id": name, "images": [encoded(_small(int(name)))]}
            for name, shop_id in products.items()
        ]
    )


def test_the_largest_batch(scale: Scale, serve: Serve, record: Record) -> None:
    served = serve(LPR_BODY_TIMEOUT_S=120)
    served.http.timeout = _WITHIN_S
    # Shops of 50, of which all are candidates.
    products = {f"{number:05}": f"shop-{number // 50}" for number in range(scale.batch)}
    body = _body(products)
    with peak_memory(served) as grown:
        started = time.monotonic()
        accepted = post_batch(served.http, body, None)
        stored_s = time.monotonic() - started
        job = ended(served.http, accepted, _WITHIN_S)
        done_s = time.monotonic() - started
        grown_bytes = grown()
    there = {name for shop_id in set(products.values()) for name in found(served.http, shop_id)}
    record(
        "a batch of 10,000 items",
        "202 once all is durable, per-item results, all searchable",
        f"{len(products)} items, {len(body) / 1e6:.1f} MB: 202 after {stored_s:.1f} s, all told "
        f"after {done_s:.1f} s: {job['counts']}; {len(there)} found; "
        f"at most {grown_bytes / 1e6:.0f} MB more memory",
        "one post of JSON lines, pictures of 32 x 32, Milvus Lite",
    )
    assert job["counts"]["done"] == len(products)
    assert there == set(products)
    assert grown_bytes <= _MOST_BYTES
