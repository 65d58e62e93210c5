from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from service.errors import ImageError, JobNotFoundError
from service.gallery.storage import Storage
from service.jobs import records
from service.jobs.records import (
    PIECE_ITEMS,
    Counts,
    ItemResult,
    ItemStatus,
    Job,
    Jobs,
    JobState,
)

BAD = ImageError("damaged", pointer="/images/1")


def results(count: int, *failed: int) -> list[ItemResult]:
    return [
        ItemResult(item=i, shop_id="shop", product_id=f"p{i}", status=ItemStatus.QUEUED).turned(
            *((ItemStatus.FAILED, BAD) if i in failed else (ItemStatus.QUEUED, None))
        )
        for i in range(count)
    ]


def finish(jobs: Jobs, job: Job, *numbers: int) -> None:
    for number in numbers:
        piece = jobs.piece(job.job_id, number)
        items = tuple(
            item.turned(ItemStatus.DONE, None) if item.status is ItemStatus.QUEUED else item
            for item in piece.items
        )
        changed = piece.model_copy(update={"items": items, "attempts": piece.attempts + 1})
        jobs.save(job.job_id, number, changed)


def test_a_job_is_kept_with_every_item(jobs: Jobs, storage: Storage) -> None:
    job = jobs.create(results(3, 1))
    there = Jobs(storage, keep_s=86_400).get(job.job_id)
    assert there == job
    assert there.counts == Counts(items=3, queued=2, done=0, failed=1)
    assert (there.state, there.shops, there.ended_at) == (JobState.QUEUED, ("shop",), None)
    items = jobs.items(job, limit=10)
    assert items == results(3, 1)
    assert items[1].error is not None
    assert items[1].error.model_dump() == {
        "type": "/problems/image-undecodable",
        "title": "The image could not be decoded",
        "detail": "damaged",
        "pointer": "/images/1",
    }


def test_items_come_in_pages(jobs: Jobs) -> None:
    count = 2 * PIECE_ITEMS + 3
    job = jobs.create(results(count))
    found: list[int] = []
    while page := jobs.items(job, limit=50, after=found[-1] if found else None):
        assert len(page) == min(50, count - len(found))
        found += [item.item for item in page]
    assert found == list(range(count))


def test_its_state_follows_its_pieces(jobs: Jobs) -> None:
    job = jobs.create(results(PIECE_ITEMS + 2, PIECE_ITEMS))
    assert list(jobs.unfinished()) == [(job.job_id, 0), (job.job_id, 1)]
    finish(jobs, job, 1)
    assert jobs.get(job.job_id).state is JobState.RUNNING
    assert list(jobs.unfinished()) == [(job.job_id, 0)]
    assert not jobs.end(job.job_id)
    finish(jobs, job, 0)
    assert jobs.end(job.job_id)
    ended = jobs.get(job.job_id)
    assert ended.state is JobState.DONE
    assert ended.ended_at is not None
    assert ended.counts == Counts(items=PIECE_ITEMS + 2, queued=0, done=PIECE_ITEMS + 1, failed=1)
    assert list(jobs.unfinished()) == []


def test_pieces_may_be_worked_on_while_the_rest_comes_in(jobs: Jobs, storage: Storage) -> None:
    new, items = jobs.begin(), results(PIECE_ITEMS + 2)
    assert new.add(items[: PIECE_ITEMS - 1]) == []
    assert new.add(items[PIECE_ITEMS - 1 : -1]) == [0]
    assert len(jobs.piece(new.job_id, 0).items) == PIECE_ITEMS
    with pytest.raises(JobNotFoundError):
        jobs.get(new.job_id)
    new.add(items[-1:])
    job = new.complete()
    assert jobs.get(job.job_id) == job
    assert jobs.items(job, limit=100) == items
    assert list(jobs.unfinished()) == [(job.job_id, 0), (job.job_id, 1)]


def test_a_job_that_was_done_while_it_came_in_has_ended(jobs: Jobs) -> None:
    new = jobs.begin()
    assert new.add(results(2 * PIECE_ITEMS)) == [0, 1]
    for number in (0, 1):
        piece = jobs.piece(new.job_id, number)
        items = tuple(item.turned(ItemStatus.DONE, None) for item in piece.items)
        jobs.save(new.job_id, number, piece.model_copy(update={"items": items}))
    job = new.complete()
    assert job.ended_at is not None
    assert job == jobs.get(job.job_id)
    assert job.counts.done == 2 * PIECE_ITEMS
    assert jobs.count() == dict.fromkeys(JobState, 0) | {JobState.DONE: 1}


def test_a_job_that_is_not_completed_leaves_nothing(jobs: Jobs, storage: Storage) -> None:
    new = jobs.begin()
    new.add(results(PIECE_ITEMS + 1))
    new.discard()
    assert list(storage.keys("")) == []


def test_a_job_of_an_earlier_version_is_read(jobs: Jobs, storage: Storage) -> None:
    """Its pieces were of 128 items, which it does not say."""
    job, items = jobs.create(results(130)), results(130)
    for number in job.pieces:
        storage.delete([f"jobs/{job.job_id}/{number:04}.json"])
    for number, piece in enumerate((items[:128], items[128:])):
        jobs.save(job.job_id, number, records.Piece(items=tuple(piece)))
    old = job.model_dump_json(exclude={"piece_items"})
    storage.put(f"jobs/{job.job_id}/job.json", old.encode())
    assert list(jobs.unfinished()) == [(job.job_id, 0), (job.job_id, 1)]
    assert jobs.items(jobs.get(job.job_id), limit=5, after=126) == items[127:]


def test_a_job_of_failures_alone_has_ended_at_once(jobs: Jobs) -> None:
    job = jobs.create(results(2, 0, 1))
    assert job.ended_at is not None
    assert jobs.get(job.job_id).state is JobState.DONE
    assert list(jobs.unfinished()) == []


def test_what_another_replica_ended_is_seen(jobs: Jobs, storage: Storage) -> None:
    job = jobs.create(results(1))
    assert list(jobs.unfinished()) == [(job.job_id, 0)]
    there = Jobs(storage, keep_s=86_400)
    finish(there, job, 0)
    there.end(job.job_id)
    assert jobs.get(job.job_id).state is JobState.DONE
    assert list(jobs.unfinished()) == []


def test_a_job_whose_last_worker_was_killed_is_ended_by_the_next_look(
    jobs: Jobs, storage: Storage
) -> None:
    job = jobs.create(results(1))
    finish(jobs, job, 0)
    assert list(jobs.unfinished()) == []
    assert jobs.get(job.job_id).ended_at is not None
    assert list(storage.keys("job-states/open")) == []


def test_a_job_that_is_written_this_moment_is_left_alone(
    jobs: Jobs, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = jobs.create(results(1))
    storage.delete([f"jobs/{job.job_id}/job.json"])
    assert list(jobs.unfinished()) == []
    assert len(list(storage.keys("job-states/open"))) == 1
    monkeypatch.setattr(records, "_CREATION_S", -1.0)
    assert list(jobs.unfinished()) == []
    assert list(storage.keys("")) == []


@pytest.mark.parametrize(
    "job_id", ["", "x", "../record", "20260101T000000-" + "0" * 32, "20260101T000000-" + "0" * 33]
)
def test_a_job_that_is_not_there_is_told(jobs: Jobs, job_id: str) -> None:
    with pytest.raises(JobNotFoundError):
        jobs.get(job_id)


def test_the_given_up_ones_are_found_latest_first(jobs: Jobs) -> None:
    made = [jobs.create(results(1)) for _ in range(4)]
    for job in made[:3]:
        finish(jobs, job, 0)
        if job is not made[1]:
            piece = jobs.piece(job.job_id, 0).model_copy(update={"dead": True})
            jobs.save(job.job_id, 0, piece)
        jobs.end(job.job_id)
    expected = sorted((made[0].job_id, made[2].job_id), reverse=True)
    assert [job.job_id for job in jobs.dead(10)] == expected
    assert [job.job_id for job in jobs.dead(1)] == expected[:1]


def test_jobs_are_counted_by_state_on_every_replica(jobs: Jobs, storage: Storage) -> None:
    made = [jobs.create(results(PIECE_ITEMS + 1)) for _ in range(5)]
    finish(jobs, made[0], 0)
    for job in made[3:]:
        finish(jobs, job, 0, 1)
        jobs.end(job.job_id)
    expected = {JobState.QUEUED: 2, JobState.RUNNING: 1, JobState.DONE: 2, JobState.DEAD: 0}
    assert jobs.count() == Jobs(storage, keep_s=86_400).count() == expected
    finish(jobs, made[0], 1)
    jobs.end(made[0].job_id)
    assert jobs.count() == expected | {JobState.RUNNING: 0, JobState.DONE: 3}
    assert list(storage.keys("job-states/begun")) == []


@pytest.mark.parametrize("is_done", [True, False])
def test_old_jobs_are_forgotten(jobs: Jobs, storage: Storage, is_done: bool) -> None:
    young = jobs.create(results(1))
    old = jobs.create(results(1))
    if is_done:
        finish(jobs, old, 0)
        jobs.end(old.job_id)
    then = f"{datetime.now(UTC) - timedelta(days=2):%Y%m%dT%H%M%S}"
    aged = then + old.job_id[len(then) :]
    for key in [key for folder in ("jobs", "job-states") for key in storage.keys(folder)]:
        data = storage.get(key)
        if old.job_id in key and data is not None:
            storage.put(
                key.replace(old.job_id, aged), data.replace(old.job_id.encode(), aged.encode())
            )
    assert jobs.get(aged).job_id == aged
    jobs.forget_old()
    assert jobs.get(young.job_id) == young
    with pytest.raises(JobNotFoundError):
        jobs.get(aged)
    assert not [key for key in storage.keys("") if aged in key]
