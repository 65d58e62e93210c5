"""Accepted work is done at least once, whoever dies over it, and given up where it kills everybody.

The replicas share an object store, a Milvus Lite server and a Redis of their own.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.settings import CatalogueSettings
from tests.faults.conftest import Record, Serve
from tests.faults.ledger import PICTURES, Ledger
from tests.faults.load import in_lanes
from tests.faults.processes import Served, failing, until
from tests.faults.replicas import Shared
from tests.faults.scale import Scale
from tests.integration.test_jobs import as_lines, found, post_batch

_PRODUCTS = {f"product-{number}": PICTURES[number] for number in range(12)}
_TAKEN_OVER_S = 60.0
_POINTS = {
    "after embed": "service.encoding:Encoder.encode:after:1",
    "after upsert": "service.gallery.index:VectorIndex.upsert:after:1",
    "before its result is kept": "service.jobs.records:Jobs.save:before:2",
    "before ack": "service.jobs.queue:WorkQueue.finish:before:1",
}


@pytest.fixture
def shared(tmp_path: Path, s3_settings: CatalogueSettings) -> Iterator[Shared]:
    with Shared(tmp_path, s3_settings) as shared:
        yield shared


def _takeover(scale: Scale) -> dict[str, object]:
    """As it is by default where the figure is asked for, else sooner."""
    return {} if scale.full else {"LPR_JOBS__TAKEOVER_S": 2}


def _job(http: httpx.Client, location: str) -> dict[str, Any]:
    answer = http.get(location)
    return dict(answer.raise_for_status().json())


@pytest.mark.parametrize(
    "point",
    [
        point if point == "after upsert" else pytest.param(point, marks=pytest.mark.full)
        for point in _POINTS
    ],
)
def test_a_worker_killed(
    scale: Scale, serve: Serve, shared: Shared, record: Record, point: str
) -> None:
    settings = shared.settings | _takeover(scale)
    dying = serve("dying", **settings, **failing(FAIL_KILL=_POINTS[point]))
    location = post_batch(dying.http, as_lines(_PRODUCTS), "shop").headers["location"]
    dying.wait(60)
    killed = time.monotonic()
    other = serve("other", **settings)
    until(lambda: _job(other.http, location)["ended_at"] is not None, 120, "taken over")
    seconds = time.monotonic() - killed
    counts = _job(other.http, location)["counts"]
    there = found(other.http, "shop")
    record(
        f"at least once: a worker killed {point}",
        "an abandoned job is taken over within 60 s; one row a key",
        f"{counts['done']} of {counts['items']} done {seconds:.1f} s after the kill, "
        f"{len(there)} found",
        "two replicas on S3, Redis and a Milvus Lite server"
        + ("" if scale.full else ", takeover after 2 s"),
    )
    assert (counts["done"], counts["failed"]) == (len(_PRODUCTS), 0)
    assert there == set(_PRODUCTS)
    assert _rows(other) <= len(_PRODUCTS), "one row a picture"
    if scale.full:
        until(lambda: _rows(other) == len(_PRODUCTS), 60, "they are counted")
        assert seconds <= _TAKEN_OVER_S


def _rows(served: Served) -> float:
    """Of the index, as counted some seconds ago."""
    return served.metric("lpr_index_pictures")


def test_work_that_never_succeeds(serve: Serve, tmp_path: Path, record: Record) -> None:
    switch = tmp_path / "most_pictures"
    served = serve(**failing(FAIL_SESSIONS=switch), LPR_JOBS__TAKEOVER_S=1)
    switch.write_text("0")
    accepted = post_batch(served.http, as_lines(_PRODUCTS), "shop")
    location = accepted.headers["location"]
    until(lambda: _job(served.http, location)["ended_at"] is not None, 120, "given up")
    job = _job(served.http, location)
    dead = served.http.get("/jobs", params={"state": "dead"}).json()["jobs"]
    switch.unlink()
    again = post_batch(served.http, as_lines(_PRODUCTS), "shop").headers["location"]
    until(lambda: _job(served.http, again)["ended_at"] is not None, 60, "posted again, it is done")
    record(
        "at least once: work that never succeeds",
        "5 attempts, then dead-letter, visible",
        f"{job['state']} with {job['counts']['failed']} failed, listed by GET /jobs?state=dead; "
        f"posted again: {_job(served.http, again)['summary']}",
        "every run of onnxruntime fails",
    )
    assert job["state"] == "dead"
    assert [told["job_id"] for told in dead] == [job["job_id"]]
    assert "in 5 attempts" in job["items"][0]["error"]["detail"]
    assert found(served.http, "shop") == set(_PRODUCTS)


def test_one_of_two_replicas_is_killed(
    scale: Scale, serve: Serve, shared: Shared, record: Record
) -> None:
    """Both are written to; what one acknowledged is read from the other, kills or not."""
    ledger = Ledger("shop")
    settings = shared.settings | _takeover(scale)
    staying = serve("staying", **settings)
    rounds = 5 if scale.full else 1
    lost: list[str] = []
    wrong: list[str] = []
    agreed_s = 0.0
    for number in range(rounds):
        dying = serve(f"dying-{number}", **settings)
        stop = time.monotonic() + 3
        urls = [dying.url, staying.url, dying.url, staying.url]
        with in_lanes(
            len(urls),
            lambda lane: ledger.write_until(urls[lane], lane, lambda: time.monotonic() > stop),  # noqa: B023
        ):
            time.sleep(1.5)
            dying.kill()
        agreed_s = max(
            agreed_s, until(lambda: ledger.agrees(staying.client), 120, "index and catalogue agree")
        )
        missing, differing = ledger.check(staying.client)
        lost += missing
        wrong += differing
    record(
        "kills lose nothing: one of two replicas",
        "0 acknowledged lost, 0 duplicates; the other one finishes within 60 s",
        f"{rounds} kills, {ledger.acknowledged} acknowledged writes: {len(lost)} lost, "
        f"{len(wrong)} wrong; index and catalogue agree after at most {agreed_s:.1f} s",
        "4 writers on two replicas on S3, Redis and a Milvus Lite server",
    )
    assert not lost
    assert not wrong
    if scale.full:
        assert agreed_s <= _TAKEN_OVER_S


@pytest.mark.full
def test_read_your_writes_on_another_replica(
    scale: Scale, serve: Serve, shared: Shared, record: Record
) -> None:
    settings = shared.settings
    pair = [serve(name, **settings) for name in ("here", "there")]
    missed: list[str] = []
    reads = scale.reads // 50
    for number, (here, there) in zip(
        range(reads), itertools.cycle([tuple(pair), tuple(reversed(pair))]), strict=False
    ):
        product_id, title = f"{number % 40}", f"title {number}"
        here.client.put_product("shop", product_id, [PICTURES[number % 12]], title=title)
        answer = there.client.recognize_frames("shop", [PICTURES[0]], top_k=100)
        titles = {c["product_id"]: c["title"] for c in answer["candidates"]}
        if titles.get(product_id) != title:
            missed.append(product_id)
    record(
        "read your writes, from another replica",
        "found by /recognize as soon as it is reported indexed",
        f"{reads - len(missed)} of {reads}",
        "two replicas on S3, Redis and a Milvus Lite server",
    )
    assert not missed
