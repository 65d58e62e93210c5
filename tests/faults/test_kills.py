"""Kills lose nothing: at random moments, and at the moments that were thought of."""

from __future__ import annotations

import random
import threading
import time

import pytest

from service.client import Client
from tests.faults.conftest import Record, Serve
from tests.faults.ledger import PICTURES, Ledger
from tests.faults.load import in_lanes
from tests.faults.processes import failing, until
from tests.faults.scale import Scale
from tests.integration.test_jobs import as_lines, ended, found, post_batch

_LANES = 4
_A_BATCH = 50


def test_kills_at_random_moments(scale: Scale, serve: Serve, record: Record) -> None:
    rng, ledger = random.Random(6), Ledger("shop")
    lost: list[str] = []
    wrong: list[str] = []
    ready_s: list[float] = []
    served = serve()
    for _ in range(scale.kills):
        gone, acknowledged = threading.Event(), ledger.acknowledged
        with in_lanes(_LANES, lambda lane: ledger.write_until(served.url, lane, gone.is_set)):  # noqa: B023
            until(lambda: ledger.acknowledged > acknowledged, 60, "a write is acknowledged")  # noqa: B023
            time.sleep(rng.uniform(0.0, 1.3))
            served.kill()
            gone.set()
        served = serve()
        ready_s.append(served.ready_s)
        missing, differing = ledger.check(served.client)
        lost += missing
        wrong += differing
    record(
        "kills lose nothing",
        "100 SIGKILLs under write load: 0 acknowledged writes lost, 0 duplicates, ready <= 15 s",
        f"{scale.kills} SIGKILLs, {ledger.acknowledged} acknowledged writes: {len(lost)} lost, "
        f"{len(wrong)} wrong in the index, ready after at most {max(ready_s):.1f} s",
        "4 writers, Milvus Lite",
    )
    assert not lost
    assert not wrong
    assert ledger.acknowledged >= scale.kills, "the kills came in the middle of work"
    if scale.full:
        assert max(ready_s) <= 15


_POINTS = [
    "service.gallery.catalogue:Catalogue.put:after:3",
    "service.gallery.index:VectorIndex.upsert:after:3",
    "service.gallery.pending:Pending.close:before:3",
]
_MORE_POINTS = [
    "service.inference.model:Model.encode_pictures:after:6",  # the first ones warm it up
    "service.gallery.pending:Pending.open:after:3",
    "service.gallery.catalogue:Catalogue.put:before:3",
    "service.gallery.index:VectorIndex.delete:before:3",
    "service.coordination.epochs:Epochs.renew:before:3",
    "service.coordination.epochs:Epochs.renew:after:3",
]


@pytest.mark.parametrize(
    "point", _POINTS + [pytest.param(point, marks=pytest.mark.full) for point in _MORE_POINTS]
)
def test_kills_at_failpoints(serve: Serve, record: Record, point: str) -> None:
    ledger = Ledger("shop")
    served = serve(**failing(FAIL_KILL=point))
    with in_lanes(2, lambda lane: ledger.write_until(served.url, lane, lambda: False)):
        served.wait(60)
    again = serve()
    lost, wrong = ledger.check(again.client)
    function, when = point.split(":")[1:3]
    record(
        f"a kill {when} {function}",
        "0 acknowledged writes lost, the index agrees with the catalogue",
        f"{ledger.acknowledged} acknowledged: {len(lost)} lost, {len(wrong)} wrong in the index",
        "2 writers, Milvus Lite",
    )
    assert not lost
    assert not wrong
    retried = again.http.post(
        "/gallery",
        data={"shop_id": "shop", "product_id": "0-0", "title": "again"},
        files={"images": PICTURES[0]},
    )
    assert retried.status_code == 201, "what was interrupted can be sent again"


def test_read_your_writes(scale: Scale, serve: Serve, record: Record) -> None:
    """A product is found by the very next request after its post was answered."""
    served = serve()
    client = Client(served.url)  # which comes again where it is told to
    a_lane = scale.reads // 2 // _LANES
    missed: list[str] = []
    deadline = time.monotonic() + (360 if scale.full else 60)
    looked = [0] * _LANES

    def write_and_read(lane: int) -> None:
        for number in range(a_lane):
            if time.monotonic() > deadline:
                return
            # Shops of 50, of which all are candidates; so each lane writes, replaces, and reads.
            shop_id = f"{lane}-{number // 50}"
            product_id, title = f"{number % 50}", f"title {number}"
            client.put_product(shop_id, product_id, [PICTURES[number % 12]], title=title)
            answer = client.recognize_frames(shop_id, [PICTURES[0]], top_k=100)
            found = {c["product_id"]: c["title"] for c in answer["candidates"]}
            looked[lane] += 1
            if found.get(product_id) != title:
                missed.append(f"{shop_id} {product_id}")

    with client, in_lanes(_LANES, write_and_read):
        pass
    record(
        "read your writes",
        "found by /recognize as soon as it is reported indexed: 10,000 of 10,000",
        f"{sum(looked) - len(missed)} of {sum(looked)}",
        "posts, by 4 writers who read, Milvus Lite",
    )
    assert not missed
    assert sum(looked) >= min(_A_BATCH, a_lane * _LANES)


def test_read_your_batches(scale: Scale, serve: Serve, record: Record) -> None:
    """All of a batch is found by the next request after its job was told to be done."""
    served = serve()
    found_of_all = 0
    for number in range(scale.reads // 2 // _A_BATCH):
        shop_id = f"shop-{number}"
        batch = {f"{number}-{i}": PICTURES[(number + i) % 12] for i in range(_A_BATCH)}
        job = ended(served.http, post_batch(served.http, as_lines(batch), shop_id))
        assert job["counts"]["done"] == _A_BATCH
        found_of_all += len(found(served.http, shop_id) & set(batch))
    asked = scale.reads // 2 // _A_BATCH * _A_BATCH
    record(
        "read your writes",
        "found by /recognize as soon as it is reported indexed: 10,000 of 10,000",
        f"{found_of_all} of {asked}",
        f"batches of {_A_BATCH}, Milvus Lite",
    )
    assert found_of_all == asked
