from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import gettempdir
from types import SimpleNamespace
from typing import Any, cast

import pytest

from service.admission import Admission
from service.api.batches import _answered, _Post
from service.coordination.idempotency import Idempotency
from service.coordination.store import Store
from service.errors import (
    BusyError,
    ClientLeftError,
    DuplicateInBatchError,
    IdempotencyInProgressError,
    ImageError,
    IndexUnavailableError,
    ShopNotFoundError,
    StorageFullError,
)
from service.gallery.catalogue import ProductRecord
from service.gallery.storage import Storage
from service.indexing import NewProduct
from service.jobs.acceptance import Acceptance
from service.jobs.batch import BatchLimits
from service.jobs.queue import Work, WorkQueue
from service.jobs.records import ItemResult, Job, Jobs, JobState
from service.keys import Grant, Right
from service.telemetry import Telemetry
from tests.service.fakes import RED
from tests.service.jobs.material import encoded, lines
from tests.service.lite_server import until


@dataclass
class FakeIndexer:
    accepted: list[tuple[str, str]] = field(default_factory=list)
    refuses: dict[str, Exception] = field(default_factory=dict)
    waiting: int = 0

    def accept(self, product: NewProduct) -> ProductRecord:
        if product.product_id in self.refuses:
            raise self.refuses[product.product_id]
        self.accepted.append((product.shop_id, product.product_id))
        self.waiting += 1
        return ProductRecord(
            shop_id=product.shop_id,
            product_id=product.product_id,
            images=(),
            updated_at=datetime.now(UTC),
        )

    def backlog(self) -> int:
        return self.waiting


@dataclass
class World:
    jobs: Jobs
    queue: WorkQueue
    indexer: FakeIndexer = field(default_factory=FakeIndexer)

    @property
    def acceptance(self) -> Acceptance:
        limits = BatchLimits(batch_bytes=1_000_000, item_bytes=100_000, spool=Path(gettempdir()))
        return Acceptance(self.jobs, self.queue, self.indexer, limits, max_backlog=50)

    def batch(self, *products: str, check_shop: Callable[[str], None] = lambda _: None) -> Job:
        *steps, job = self.acceptance.batch(batch(*products), "shop", check_shop)
        assert set(steps) <= {None}
        assert job is not None
        return job

    def results(self, job: Job) -> list[ItemResult]:
        return self.jobs.items(job, limit=1_000)


def batch(*products: str) -> io.BytesIO:
    return io.BytesIO(lines([{"product_id": name, "images": [encoded(RED)]} for name in products]))


def product(name: str) -> NewProduct:
    return NewProduct("shop", name, None, None, (RED,))


@pytest.fixture
def world(store: Store, jobs: Jobs) -> World:
    return World(jobs, WorkQueue(store, takeover_s=30, redis_timeout_s=0.1))


def test_a_batch_becomes_a_job_of_what_was_stored_and_what_was_refused(world: World) -> None:
    world.indexer.refuses = {"q": ImageError("damaged", pointer="/images/0")}
    job = world.batch("p", "q", "r")
    assert sorted(world.indexer.accepted) == [("shop", "p"), ("shop", "r")]
    assert [item.status.value for item in world.results(job)] == ["queued", "failed", "queued"]
    error = world.results(job)[1].error
    assert error is not None
    assert (error.type, error.pointer) == ("/problems/image-undecodable", "/images/0")
    claim = world.queue.take()
    assert claim is not None
    assert claim.work == Work(job.job_id, 0)


def test_a_batch_lets_others_have_their_turn(world: World) -> None:
    steps = world.acceptance.batch(batch(*map(str, range(40))), "shop", lambda _: None)
    assert next(steps) is None
    assert 0 < len(world.indexer.accepted) < 40


def test_a_small_batch_is_one_step(world: World) -> None:
    [job] = world.acceptance.batch(batch("p", "q"), "shop", lambda _: None)
    assert job is not None
    assert job.counts.queued == 2


def test_what_is_stored_is_worked_on_while_the_rest_comes_in(
    world: World, storage: Storage
) -> None:
    steps = world.acceptance.batch(batch(*map(str, range(40))), "shop", lambda _: None)
    claim = None
    while claim is None:
        assert next(steps) is None, "not the last step yet"
        claim = world.queue.take()
    assert claim.work.piece == 0
    piece = world.jobs.piece(*claim.work)
    assert {("shop", item.product_id) for item in piece.items} <= set(world.indexer.accepted)
    *_, job = steps
    assert job is not None
    assert job.job_id == claim.work.job_id
    rest = world.queue.take()
    assert rest is not None
    assert rest.work == Work(job.job_id, 1)
    assert world.queue.take() is None
    assert [item.item for item in world.results(job)] == list(range(40))


def test_a_batch_that_is_given_up_leaves_no_job(world: World, storage: Storage) -> None:
    steps = world.acceptance.batch(batch(*map(str, range(40))), "shop", lambda _: None)
    while not list(storage.keys("jobs")):
        next(steps)
    steps.close()
    assert list(storage.keys("")) == []


def test_a_post_whose_client_left_between_its_steps_may_be_sent_again(
    world: World, store: Store, storage: Storage
) -> None:
    parts: Any = SimpleNamespace(
        acceptance=world.acceptance, idempotency=Idempotency(store), jobs=world.jobs
    )
    sent = batch(*map(str, range(40)))

    def post() -> _Post:
        key = Grant(key_id="key", name="it", shops="all", rights=(Right.INDEX,))
        return _Post(parts, key, "shop", sent, "word")

    class Turns:
        """Of which there is one, before the client leaves."""

        async def run(self, step: Callable[[], Any], *, begun: bool = False) -> Any:
            if begun:
                with pytest.raises(IdempotencyInProgressError):
                    post().step()
                raise ClientLeftError("gone")
            return step()

    first, turns = post(), Turns()
    with pytest.raises(ClientLeftError):
        asyncio.run(_answered(first, cast("Admission", turns)))
    until(lambda: not list(storage.keys("jobs")))
    assert first.step() is None, "a step that had its turn coming does nothing any more"
    world.indexer.waiting = 0
    assert post().step() is None


def test_large_items_are_in_memory_one_by_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.jobs.acceptance._BYTES_A_STEP", 1)
    steps = world.acceptance.batch(batch("p", "q", "r"), "shop", lambda _: None)
    assert next(steps) is None
    assert world.indexer.accepted == [("shop", "p")]


def test_items_of_shops_that_are_not_the_callers_fail(world: World) -> None:
    def check_shop(shop_id: str) -> None:
        raise ShopNotFoundError(shop_id)

    job = world.batch("p", check_shop=check_shop)
    assert world.indexer.accepted == []
    error = world.results(job)[0].error
    assert error is not None
    assert error.type == "/problems/shop-not-found"
    assert job.state is JobState.DONE


def test_an_item_that_another_writes_just_now_fails_alone(world: World) -> None:
    world.indexer.refuses = {"p": BusyError("another service is writing it")}
    job = world.batch("p", "q")
    assert [item.status.value for item in world.results(job)] == ["failed", "queued"]


def test_a_batch_that_is_refused_whole_stores_nothing(world: World) -> None:
    with pytest.raises(DuplicateInBatchError):
        world.batch("p", "q", "p")
    assert world.indexer.accepted == []


def test_a_full_storage_ends_the_batch(world: World, storage: Storage) -> None:
    world.indexer.refuses = {"q": StorageFullError("full")}
    with pytest.raises(StorageFullError):
        world.batch("p", "q")
    assert list(storage.keys("jobs")) == []


def test_the_backlog_is_bounded_before_anything_is_stored(world: World) -> None:
    world.indexer.waiting = 49
    with pytest.raises(IndexUnavailableError):
        world.batch("p", "q")
    assert world.indexer.accepted == []
    assert world.acceptance.one(product("p")).counts.queued == 1
    with pytest.raises(IndexUnavailableError):
        world.acceptance.one(product("q"))
    assert world.indexer.accepted == [("shop", "p")]


def test_without_redis_work_is_accepted_all_the_same(world: World) -> None:
    nobody = Store.at("unix:///nowhere/nobody.sock", timeout_s=1, telemetry=Telemetry())
    world.queue = WorkQueue(nobody, takeover_s=30, redis_timeout_s=1)
    job = world.acceptance.one(product("p"))
    assert list(world.jobs.unfinished()) == [(job.job_id, 0)]
