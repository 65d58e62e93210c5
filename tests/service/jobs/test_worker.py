"""The worker over a real Redis and real records; the indexer is the one part that is made up."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from service.coordination.private_server import PrivateRedis
from service.coordination.store import Store
from service.errors import (
    CoordinationError,
    ImageError,
    IndexUnavailableError,
    InferenceError,
    LPRError,
)
from service.gallery.storage import Storage
from service.jobs import queue as queues
from service.jobs import worker as workers
from service.jobs.queue import _GROUP, _STREAM, Work, WorkQueue
from service.jobs.records import PIECE_ITEMS, ItemResult, ItemStatus, Job, Jobs, JobState
from service.jobs.worker import MAX_ATTEMPTS, Housekeeper, Worker
from service.telemetry import Telemetry
from tests.service.jobs.silence import fall_silent
from tests.service.lite_server import until


@dataclass
class FakeIndexer:
    """Remembers what it was asked to finish; `fails` raises what a product provokes."""

    asked: list[tuple[str, list[str]]] = field(default_factory=list)
    damaged: set[str] = field(default_factory=set)
    not_encoded: set[str] = field(default_factory=set)
    provokes: dict[str, Exception] = field(default_factory=dict)
    during: Callable[[], None] = lambda: None

    def finish(self, shop_id: str, product_ids: Sequence[str]) -> Mapping[str, LPRError]:
        self.asked.append((shop_id, list(product_ids)))
        self.during()
        for name in product_ids:
            if name in self.provokes:
                raise self.provokes[name]
        failed: dict[str, LPRError] = {}
        for name in product_ids:
            if name in self.damaged:
                failed[name] = ImageError("damaged")
            if name in self.not_encoded:
                failed[name] = InferenceError("not finite")
        return failed

    @property
    def finished(self) -> list[str]:
        return [name for _, names in self.asked for name in names]


@dataclass
class World:
    store: Store
    jobs: Jobs
    indexer: FakeIndexer = field(default_factory=FakeIndexer)
    takeover_s: float = 30.0
    told: dict[JobState, int] = field(default_factory=dict)

    def queue(self) -> WorkQueue:
        return WorkQueue(self.store, takeover_s=self.takeover_s, redis_timeout_s=0.05)

    def housekeeper(self) -> Housekeeper:
        return Housekeeper(self.jobs, self.told.update)

    def worker(
        self, indexer: FakeIndexer | None = None, housekeeper: Housekeeper | None = None
    ) -> Worker:
        return Worker(
            self.jobs,
            self.queue(),
            indexer or self.indexer,
            lambda: False,
            housekeeper or self.housekeeper(),
        )

    def job(self, count: int = 3, shop: Callable[[int], str] = lambda _: "shop") -> Job:
        return self.jobs.create(
            [
                ItemResult(item=i, shop_id=shop(i), product_id=f"p{i}", status=ItemStatus.QUEUED)
                for i in range(count)
            ]
        )

    def queued(self, count: int = 3) -> Job:
        job = self.job(count)
        self.queue().add(Work(job.job_id, number) for number in job.pieces)
        return job

    def statuses(self, job: Job) -> list[str]:
        return [item.status.value for item in self.jobs.items(job, limit=10_000)]

    def until(self, worker: Worker, job: Job, state: JobState) -> None:
        deadline = time.monotonic() + 60
        while self.jobs.get(job.job_id).state is not state:
            assert time.monotonic() < deadline, self.jobs.get(job.job_id)
            worker.step()


@pytest.fixture
def world(store: Store, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(workers, "_RETRY_S", 0.02)
    return World(store, jobs)


@pytest.fixture
def impatient(world: World) -> World:
    """Whatever lies for a moment is taken over."""
    world.takeover_s = 0.05
    return world


def test_a_job_is_done_when_its_products_are_finished(world: World) -> None:
    job = world.queued(3)
    world.worker().step()
    assert world.indexer.asked == [("shop", ["p0", "p1", "p2"])]
    assert world.statuses(job) == ["done"] * 3
    ended = world.jobs.get(job.job_id)
    assert ended.state is JobState.DONE
    assert ended.ended_at is not None
    assert world.queue().take() is None


def test_a_large_job_is_done_by_two_workers_each_product_once(world: World) -> None:
    count = 3 * PIECE_ITEMS + 5
    job = world.queued(count)
    here, there = world.worker(), world.worker()
    for worker in (here, there, here, there):
        worker.step()
    assert world.jobs.get(job.job_id).counts.done == count
    assert sorted(world.indexer.finished) == sorted(f"p{i}" for i in range(count))
    assert max(len(names) for _, names in world.indexer.asked) <= 16


def test_products_of_several_shops_are_finished_shop_by_shop(world: World) -> None:
    job = world.job(4, lambda i: "ab"[i // 2])
    world.queue().add([Work(job.job_id, 0)])
    world.worker().step()
    assert world.indexer.asked == [("a", ["p0", "p1"]), ("b", ["p2", "p3"])]
    assert world.statuses(job) == ["done"] * 4


def test_one_damaged_product_fails_alone_and_is_not_tried_again(world: World) -> None:
    world.indexer.damaged = {"p1"}
    job = world.queued(3)
    world.worker().step()
    assert world.statuses(job) == ["done", "failed", "done"]
    error = world.jobs.items(job, limit=3)[1].error
    assert error is not None
    assert error.type == "/problems/image-undecodable"
    assert world.jobs.get(job.job_id).state is JobState.DONE


def test_what_was_never_queued_is_found_and_done(world: World) -> None:
    """Redis was away, or lost everything, when the job was accepted."""
    job = world.job(3)
    world.until(world.worker(), job, JobState.DONE)


def test_work_that_its_worker_abandoned_is_taken_over(impatient: World) -> None:
    job = impatient.queued(3)
    assert impatient.queue().take() is not None
    impatient.until(impatient.worker(), job, JobState.DONE)


def test_a_worker_killed_in_the_middle_leaves_what_it_did(impatient: World) -> None:
    job = impatient.queued(20)

    class KilledError(BaseException):
        pass

    def kill() -> None:
        if len(impatient.indexer.asked) == 2:
            raise KilledError

    impatient.indexer.during = kill
    with pytest.raises(KilledError):
        impatient.worker().step()
    assert impatient.statuses(job) == ["done"] * 16 + ["queued"] * 4
    assert impatient.jobs.get(job.job_id).state is JobState.RUNNING
    successor = FakeIndexer()
    impatient.until(impatient.worker(successor), job, JobState.DONE)
    assert sorted(successor.finished) == sorted(f"p{i}" for i in range(16, 20))


def test_while_milvus_is_away_a_piece_waits_and_costs_no_attempt(world: World) -> None:
    job = world.queued(3)

    def comes_back() -> None:
        if len(world.indexer.asked) > 2 * MAX_ATTEMPTS:
            world.indexer.provokes.clear()

    world.indexer.during = comes_back
    world.indexer.provokes = {"p0": IndexUnavailableError("away")}
    world.worker().step()
    assert world.statuses(job) == ["done"] * 3
    assert world.jobs.piece(job.job_id, 0).attempts == 1


def test_a_worker_that_waits_keeps_its_piece(world: World) -> None:
    job = world.queued(1)
    found: list[object] = []

    def look() -> None:
        found.append(world.queue().take())
        fall_silent(world.store, 31)  # until the worker says again that it is at it
        if len(found) == 5:
            world.indexer.provokes.clear()

    world.indexer.during = look
    world.indexer.provokes = {"p0": IndexUnavailableError("away")}
    world.worker().step()
    assert found == [None] * 5
    assert world.jobs.get(job.job_id).state is JobState.DONE


def test_a_worker_that_is_slow_keeps_its_piece(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long a few products take, and though nothing is said between them."""
    monkeypatch.setattr(queues, "_KEEPS_A_TAKEOVER", 1_000)
    job = world.queued(1)
    found: list[object] = []

    stream = world.store.key(*_STREAM)

    def is_heard() -> bool:
        held = world.store.call(lambda client: client.xpending_range(stream, _GROUP, "-", "+", 1))
        return bool(held[0]["time_since_delivered"] < 1e3 * world.takeover_s)

    def be_slow() -> None:
        fall_silent(world.store, 31)
        until(is_heard, within_s=10)
        found.append(world.queue().take())

    world.indexer.during = be_slow
    world.worker().step()
    assert found == [None]
    assert world.jobs.piece(job.job_id, 0).attempts == 1
    assert world.jobs.get(job.job_id).state is JobState.DONE


def test_a_worker_that_is_stopped_while_it_waits_gives_its_piece_back(world: World) -> None:
    job = world.queued(3)
    worker = world.worker()
    world.indexer.during = worker.stop
    world.indexer.provokes = {"p0": IndexUnavailableError("away")}
    worker.step()
    assert world.jobs.piece(job.job_id, 0).attempts == 0
    assert world.statuses(job) == ["queued"] * 3
    claim = world.queue().take()
    assert claim is not None
    assert claim.work == Work(job.job_id, 0)


@pytest.mark.parametrize("error", [InferenceError("not finite"), ValueError("a bug"), None])
def test_what_fails_five_times_is_dead_and_the_others_are_done(
    impatient: World, error: Exception | None
) -> None:
    if error is None:
        impatient.indexer.not_encoded = {"p1"}
    else:
        impatient.indexer.provokes = {"p1": error}
    job = impatient.queued(3)
    worker = impatient.worker()
    worker.step()
    assert impatient.statuses(job) == ["done", "queued", "done"], "p1 alone is tried again"
    impatient.until(worker, job, JobState.DEAD)
    together = 0 if error is None else 1
    assert impatient.indexer.finished.count("p1") == MAX_ATTEMPTS + together
    assert impatient.statuses(job) == ["done", "failed", "done"]
    item = impatient.jobs.items(job, limit=3)[1]
    assert item.error is not None
    assert item.error.type == "/problems/given-up"
    assert "5 attempts" in item.error.detail
    assert [job.job_id for job in impatient.jobs.dead(10)] == [job.job_id]
    ((_, letter),) = impatient.store.call(lambda client: client.xrange("lpr:{jobs}:dead"))
    assert letter == {
        "job": job.job_id,
        "piece": "0",
        "attempts": str(MAX_ATTEMPTS),
        "reason": item.error.detail,
    }
    assert impatient.queue().take() is None


def test_a_piece_that_kills_its_worker_is_dead_after_five_of_them(impatient: World) -> None:
    class KilledError(BaseException):
        pass

    impatient.indexer.provokes = {"p0": KilledError()}  # type: ignore[dict-item]
    job = impatient.queued(1)
    killed = 0
    deadline = time.monotonic() + 60
    while impatient.jobs.get(job.job_id).state is not JobState.DEAD:
        assert time.monotonic() < deadline
        try:
            impatient.worker().step()
        except KilledError:
            killed += 1
    assert killed == MAX_ATTEMPTS


def test_how_many_jobs_there_are_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_COUNT_S", 0.0)
    monkeypatch.setattr(workers, "_FORGET_S", 0.0)
    job, worker = world.queued(1), world.worker()
    worker.step()
    assert world.told == dict.fromkeys(JobState, 0) | {JobState.QUEUED: 1}
    worker.step()
    assert world.told == dict.fromkeys(JobState, 0) | {JobState.DONE: 1}
    assert job


def test_workers_of_a_service_count_together_and_what_is_done_seldom(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing of an object store costs money, and of many jobs minutes."""
    told: list[Mapping[JobState, int]] = []
    housekeeper = Housekeeper(world.jobs, told.append)
    here, there = (world.worker(housekeeper=housekeeper) for _ in range(2))
    monkeypatch.setattr(workers, "_COUNT_S", 0.0)
    here.step()
    monkeypatch.setattr(workers, "_COUNT_S", 15.0)
    there.step()
    here.step()
    assert [set(counts) for counts in told] == [set(JobState), set(JobState) - {JobState.DONE}]


def test_without_redis_a_worker_goes_through_everything_alone(
    world: World, storage: Storage, server: PrivateRedis
) -> None:
    nobody = Store.at("unix:///nowhere/nobody.sock", timeout_s=1, telemetry=Telemetry())
    world.store = nobody
    jobs = [world.job(3), world.job(2)]
    with pytest.raises(CoordinationError):
        world.worker().step()
    assert {world.jobs.get(job.job_id).state for job in jobs} == {JobState.DONE}


def test_without_redis_many_workers_give_nothing_up(world: World) -> None:
    """However many begin with a piece before the first of them is through with it."""
    world.store = Store.at("unix:///nowhere/nobody.sock", timeout_s=1, telemetry=Telemetry())
    job = world.job()

    def step() -> None:
        with pytest.raises(CoordinationError):
            world.worker().step()

    def another() -> None:
        if len(world.indexer.asked) < MAX_ATTEMPTS + 2:
            step()

    world.indexer.during = another
    step()
    assert len(world.indexer.asked) == MAX_ATTEMPTS + 2
    assert world.jobs.get(job.job_id).state is JobState.DONE
    assert world.statuses(job) == ["done"] * 3


def test_who_is_late_undoes_nothing_of_who_took_over(world: World) -> None:
    job = world.queued(20)  # more than are done at once

    def meanwhile() -> None:
        fall_silent(world.store, 31)
        world.until(world.worker(), job, JobState.DONE)

    late = FakeIndexer(during=meanwhile)
    world.worker(late).step()
    assert len(late.asked) == 1, "it has noticed"
    assert world.statuses(job) == ["done"] * 20
    assert world.jobs.get(job.job_id).counts.done == 20


def test_redis_lost_in_the_middle_costs_nothing(world: World) -> None:
    job = world.queued(20)

    def lose() -> None:
        world.store.call(lambda client: client.flushall())
        world.indexer.during = lambda: None

    world.indexer.during = lose
    world.until(world.worker(), job, JobState.DONE)


def test_a_job_that_is_no_longer_kept_is_dropped(world: World, storage: Storage) -> None:
    job = world.queued(1)
    storage.delete(list(storage.keys("jobs")))
    world.worker().step()
    assert not world.indexer.asked
    assert world.queue().take() is None
    assert job


def test_recognitions_go_first_for_a_moment(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    job = world.queued(16)
    glances = 0
    clock = itertools.count()

    def is_busy() -> bool:
        nonlocal glances
        glances += 1
        return True

    monkeypatch.setattr(workers, "_POLITE_S", 2.5)
    monkeypatch.setattr(workers, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    Worker(world.jobs, world.queue(), world.indexer, is_busy, world.housekeeper()).step()
    assert glances >= 4, "looked more than once before each write"
    assert max(len(names) for _, names in world.indexer.asked) <= 4, "the next one waits less"
    assert world.jobs.get(job.job_id).state is JobState.DONE, "and was not starved"


@pytest.fixture
def running(world: World) -> Iterator[Worker]:
    worker = world.worker()
    thread = threading.Thread(target=worker.run)
    thread.start()
    yield worker
    worker.stop()
    thread.join(60)
    assert not thread.is_alive()


def test_a_running_worker_outlives_its_own_failures(
    world: World, running: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever breaks, the next job is done."""
    broken = threading.Event()
    piece = world.jobs.piece

    def breaks(job_id: str, number: int) -> object:
        if broken.is_set():
            return piece(job_id, number)
        broken.set()
        raise RuntimeError("a bug")

    monkeypatch.setattr(world.jobs, "piece", breaks)
    first = world.queued(1)
    assert broken.wait(60)
    second = world.queued(1)
    deadline = time.monotonic() + 60
    while world.jobs.get(second.job_id).state is not JobState.DONE:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert first
