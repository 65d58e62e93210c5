"""Jobs as they are kept: what was accepted, item by item, and what became of it.

    jobs/<id>/job.json     the job, its items in pieces; written again when it has ended
    jobs/<id>/0007.json    a piece; written again whenever it is worked on
    job-states/open/<id>   there from before its pieces are until it has ended
    job-states/begun/<id>  there from when a piece of it is first worked on until it has ended
    job-states/done/<id>   there once it has; or `dead`, as its state is

A piece is written as soon as its items are there, and may be worked on from then on; `job.json`
comes last. They lie in the catalogue's storage and are as durable as products are. A piece has one
writer at a time (`service.jobs.queue` sees to that; and two would write the same), any number may
read. Knows nothing of how items are indexed, nor of Redis.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from threading import Lock
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from service.errors import JobNotFoundError, LPRError
from service.gallery.storage import Storage

PIECE_ITEMS = 32

_ID = re.compile(r"\d{8}T\d{6}-[0-9a-f]{32}")
_TIME = "%Y%m%dT%H%M%S"
_STATES = "job-states"
_OPEN = "open"
_BEGUN = "begun"
_MOST_KNOWN = 10_000
_CREATION_S = 3_600.0  # longer than any job takes to be written


class ItemStatus(StrEnum):
    QUEUED = "queued"  # durable, and not searchable yet
    DONE = "done"  # searchable
    FAILED = "failed"


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"  # every item is done or failed
    DEAD = "dead"  # the same, but some failed because they were given up


class ItemError(BaseModel):
    """What is wrong with an item, in the words of a problem document."""

    model_config = ConfigDict(frozen=True)

    type: str
    title: str
    detail: str
    pointer: str | None = None

    @classmethod
    def of(cls, error: LPRError) -> ItemError:
        return cls(
            type=f"/problems/{error.slug}",
            title=error.title,
            detail=error.detail,
            pointer=error.pointer,
        )


class ItemResult(BaseModel):
    model_config = ConfigDict(frozen=True)

    item: int  # its place in the batch, from 0
    shop_id: str | None
    product_id: str | None
    status: ItemStatus
    error: ItemError | None = None  # of a queued one: why it is not done yet

    def turned(self, status: ItemStatus, error: LPRError | None) -> ItemResult:
        told = None if error is None else ItemError.of(error)
        return self.model_copy(update={"status": status, "error": told})


class Counts(BaseModel):
    model_config = ConfigDict(frozen=True)

    items: int
    queued: int
    done: int
    failed: int


class Piece(BaseModel):
    model_config = ConfigDict(frozen=True)

    items: tuple[ItemResult, ...]
    attempts: int = 0
    dead: bool = False

    @property
    def has_ended(self) -> bool:
        return all(item.status is not ItemStatus.QUEUED for item in self.items)


class Job(BaseModel):
    model_config = ConfigDict(frozen=True)

    job_id: str
    created_at: datetime
    shops: tuple[str, ...]
    ended_at: datetime | None = None
    state: JobState = JobState.QUEUED
    counts: Counts
    piece_items: int = 128  # of each but the last; those of older jobs did not say

    @property
    def pieces(self) -> range:
        return range(-(-self.counts.items // self.piece_items))


class _Tally(NamedTuple):
    """What a piece adds to its job."""

    queued: int
    done: int
    failed: int
    begun: bool
    dead: bool

    @classmethod
    def of(cls, piece: Piece) -> _Tally:
        statuses = [item.status for item in piece.items]
        queued, done, failed = (statuses.count(status) for status in ItemStatus)
        return cls(queued, done, failed, piece.attempts > 0, piece.dead)


class Jobs:
    """Safe to share between threads.

    Every method may raise StorageFullError or CatalogueUnavailableError.
    """

    def __init__(self, storage: Storage, keep_s: float) -> None:
        """Jobs may be forgotten when they are `keep_s` old."""
        self._storage = storage
        self._keep_s = keep_s
        self._ended: dict[str, _Tally] = {}  # of pieces that have ended, which is for good
        self._begun: set[str] = set()  # jobs that are known to be marked so
        self._guard = Lock()

    def create(self, items: Sequence[ItemResult]) -> Job:
        """A job of these results in the order of their items; durable when this returns."""
        job = self.begin()
        job.add(items)
        return job.complete()

    def begin(self) -> NewJob:
        """A job whose items are still coming in."""
        return NewJob(self, self._storage)

    def get(self, job_id: str) -> Job:
        """As it stands now. Raises JobNotFoundError."""
        job = self._read(job_id)
        if job.ended_at is not None:
            return job
        counts, state = _summary([self._tally(job_id, number) for number in job.pieces])
        return job.model_copy(update={"counts": counts, "state": state})

    def items(self, job: Job, *, limit: int, after: int | None = None) -> list[ItemResult]:
        """Up to `limit` results of items after number `after`."""
        first = 0 if after is None else after + 1
        found: list[ItemResult] = []
        for number in job.pieces[first // job.piece_items :]:
            found += [item for item in self.piece(job.job_id, number).items if item.item >= first]
            if len(found) >= limit:
                break
        return found[:limit]

    def piece(self, job_id: str, number: int) -> Piece:
        """Raises JobNotFoundError."""
        data = self._storage.get(_piece_key(job_id, number))
        if data is None:
            raise JobNotFoundError(job_id)
        return Piece.model_validate_json(data)

    def save(self, job_id: str, number: int, piece: Piece) -> None:
        files = {_piece_key(job_id, number): _bytes(piece)}
        if job_id not in self._begun:
            files[_state_key(_BEGUN, job_id)] = b""
        self._storage.put_many(files)
        self._begun.add(job_id)

    def end(self, job_id: str) -> bool:
        """Write down that the job has ended, if it has. Raises JobNotFoundError."""
        job = self._read(job_id)
        if any(self._tally(job_id, number).queued for number in reversed(job.pieces)):
            return False
        if job.ended_at is None:
            job = self.get(job_id).model_copy(update={"ended_at": datetime.now(UTC)})
            self._storage.put_many(
                {_job_key(job_id): _bytes(job), _state_key(job.state, job_id): b""}
            )
        self._storage.delete([_state_key(state, job_id) for state in (_OPEN, _BEGUN)])
        self._begun.discard(job_id)
        return True

    def are_under_way(self) -> bool:
        """Whether any is taken in or worked on."""
        return bool(self._ids(_OPEN))

    def unfinished(self) -> Iterator[tuple[str, int]]:
        """Every piece that is still to be worked on, by its job's id and its number."""
        for key in self._storage.keys(f"{_STATES}/{_OPEN}"):
            job_id = key.rpartition("/")[2]
            try:
                job = self._read(job_id)
            except JobNotFoundError:  # it was never completed, or is taken in this moment
                if _age_s(job_id) > _CREATION_S:
                    self.discard(job_id)
                continue
            queued = [number for number in job.pieces if self._tally(job_id, number).queued]
            if queued:
                yield from ((job_id, number) for number in queued)
            else:  # whoever did its last piece was killed then
                self.end(job_id)

    def discard(self, job_id: str) -> None:
        """Remove what there is of a job that is not to be completed."""
        self._storage.delete(list(self._storage.keys(f"jobs/{job_id}")))
        self._storage.delete([_state_key(state, job_id) for state in (_OPEN, _BEGUN)])

    def dead(self, limit: int) -> list[Job]:
        """The latest jobs of which something was given up."""
        ids = sorted(self._ids(JobState.DEAD), reverse=True)
        return [self._read(job_id) for job_id in ids[:limit]]

    def count(self, *, done: bool = True) -> dict[JobState, int]:
        """How many are kept; those that are `done` may be many, and long in counting."""
        unfinished, begun = set(self._ids(_OPEN)), set(self._ids(_BEGUN))
        self._begun &= begun  # without those that another replica has ended
        counts = {
            JobState.QUEUED: len(unfinished - begun),
            JobState.RUNNING: len(unfinished & begun),
            JobState.DEAD: len(self._ids(JobState.DEAD)),
        }
        return counts | ({JobState.DONE: len(self._ids(JobState.DONE))} if done else {})

    def forget_old(self) -> None:
        """Remove jobs that were made long ago."""
        for state in (_OPEN, _BEGUN, JobState.DONE, JobState.DEAD):
            for job_id in self._ids(state):
                if _age_s(job_id) <= self._keep_s:
                    break  # ids are in the order of their time
                self._storage.delete(list(self._storage.keys(f"jobs/{job_id}")))
                self._storage.delete([_state_key(state, job_id)])

    def _ids(self, state: str) -> list[str]:
        return [key.rpartition("/")[2] for key in self._storage.keys(f"{_STATES}/{state}")]

    def _read(self, job_id: str) -> Job:
        data = self._storage.get(_job_key(job_id)) if _ID.fullmatch(job_id) else None
        if data is None:
            raise JobNotFoundError(job_id)
        return Job.model_validate_json(data)

    def _tally(self, job_id: str, number: int) -> _Tally:
        key = _piece_key(job_id, number)
        known = self._ended.get(key)
        if known is not None:
            return known
        tally = _Tally.of(self.piece(job_id, number))
        if not tally.queued:
            with self._guard:
                while len(self._ended) >= _MOST_KNOWN:
                    self._ended.pop(next(iter(self._ended)))
                self._ended[key] = tally
        return tally


class NewJob:
    """A job that is taken in by one thread: `add` in the order of its items, then `complete`.

    Every method may raise StorageFullError or CatalogueUnavailableError.
    """

    def __init__(self, jobs: Jobs, storage: Storage) -> None:
        self._jobs = jobs
        self._storage = storage
        self._created_at = datetime.now(UTC)
        self.job_id = f"{self._created_at.strftime(_TIME)}-{secrets.token_hex(16)}"
        self._rest: list[ItemResult] = []  # of a piece that is not full yet
        self._tallies: list[_Tally] = []  # of the pieces that are written
        self._shops: set[str] = set()
        storage.put(_state_key(_OPEN, self.job_id), b"")

    def add(self, items: Iterable[ItemResult]) -> list[int]:
        """Numbers of the pieces that are full and durable now, and may be worked on."""
        self._rest += items
        before = len(self._tallies)
        while len(self._rest) >= PIECE_ITEMS:
            self._write(self._rest[:PIECE_ITEMS])
            self._rest = self._rest[PIECE_ITEMS:]
        return list(range(before, len(self._tallies)))

    def complete(self) -> Job:
        """The job, whose last piece may be worked on now too; durable when this returns."""
        if self._rest:
            self._write(self._rest)
        counts, state = _summary(self._tallies)
        job = Job(
            job_id=self.job_id,
            created_at=self._created_at,
            shops=tuple(sorted(self._shops)),
            state=state,
            counts=counts,
            piece_items=PIECE_ITEMS,
        )
        self._storage.put(_job_key(self.job_id), _bytes(job))
        if self._rest and self._tallies[-1].queued:  # nobody is at work on that yet
            return job
        return self._jobs.get(self.job_id) if self._jobs.end(self.job_id) else job

    def discard(self) -> None:
        """It is not to be completed; what was begun of it may go on."""
        self._jobs.discard(self.job_id)

    def _write(self, items: Sequence[ItemResult]) -> None:
        piece = Piece(items=tuple(items))
        self._storage.put(_piece_key(self.job_id, len(self._tallies)), _bytes(piece))
        self._tallies.append(_Tally.of(piece))
        self._shops |= {item.shop_id for item in items if item.shop_id is not None}


def _summary(tallies: Sequence[_Tally]) -> tuple[Counts, JobState]:
    queued, done, failed = (sum(t[i] for t in tallies) for i in range(3))
    counts = Counts(items=queued + done + failed, queued=queued, done=done, failed=failed)
    if not queued:
        return counts, JobState.DEAD if any(tally.dead for tally in tallies) else JobState.DONE
    begun = any(tally.begun for tally in tallies)
    return counts, JobState.RUNNING if begun else JobState.QUEUED


def _age_s(job_id: str) -> float:
    created = datetime.strptime(job_id.partition("-")[0], _TIME).replace(tzinfo=UTC)
    return (datetime.now(UTC) - created).total_seconds()


def _bytes(model: BaseModel) -> bytes:
    return model.model_dump_json().encode()


def _job_key(job_id: str) -> str:
    return f"jobs/{job_id}/job.json"


def _piece_key(job_id: str, number: int) -> str:
    return f"jobs/{job_id}/{number:04}.json"


def _state_key(state: str, job_id: str) -> str:
    return f"{_STATES}/{state}/{job_id}"
