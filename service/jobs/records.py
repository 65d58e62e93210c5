"""Jobs as they are kept: what was accepted, item by item, and what became of it.

    jobs/<id>/job.json     the job, its items in pieces; written again when it has ended
    jobs/<id>/0007.json    a piece; written again whenever it is worked on
    job-states/open/<id>   there from before the job is until it has ended
    job-states/begun/<id>  there from when a piece of it is first worked on until it has ended
    job-states/done/<id>   there once it has; or `dead`, as its state is

They lie in the catalogue's storage and are as durable as products are. A piece has one writer at a
time (`service.jobs.queue` sees to that; and two would write the same), any number may read. Knows
nothing of how items are indexed, nor of Redis.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from threading import Lock
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from service.errors import JobNotFoundError, LPRError
from service.gallery.storage import Storage

PIECE_ITEMS = 128

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

    @property
    def pieces(self) -> range:
        return range(-(-self.counts.items // PIECE_ITEMS))


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
        now = datetime.now(UTC)
        job_id = f"{now.strftime(_TIME)}-{secrets.token_hex(16)}"
        pieces = [Piece(items=tuple(chunk)) for chunk in _chunks(items, PIECE_ITEMS)]
        shops = tuple(sorted({item.shop_id for item in items if item.shop_id is not None}))
        counts, state = _summary([_Tally.of(piece) for piece in pieces])
        ended = not counts.queued
        job = Job(
            job_id=job_id,
            created_at=now,
            shops=shops,
            ended_at=now if ended else None,
            state=state,
            counts=counts,
        )
        self._storage.put(_state_key(state if ended else _OPEN, job_id), b"")
        self._storage.put_many(
            {_piece_key(job_id, i): _bytes(piece) for i, piece in enumerate(pieces)}
        )
        self._storage.put(_job_key(job_id), _bytes(job))
        return job

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
        for number in job.pieces[first // PIECE_ITEMS :]:
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
        if any(self._tally(job_id, number).queued for number in job.pieces):
            return False
        if job.ended_at is None:
            job = self.get(job_id).model_copy(update={"ended_at": datetime.now(UTC)})
            self._storage.put_many(
                {_job_key(job_id): _bytes(job), _state_key(job.state, job_id): b""}
            )
        self._storage.delete([_state_key(state, job_id) for state in (_OPEN, _BEGUN)])
        self._begun.discard(job_id)
        return True

    def unfinished(self) -> Iterator[tuple[str, int]]:
        """Every piece that is still to be worked on, by its job's id and its number."""
        for key in self._storage.keys(f"{_STATES}/{_OPEN}"):
            job_id = key.rpartition("/")[2]
            try:
                job = self._read(job_id)
            except JobNotFoundError:  # it was never finished, or is written this moment
                if _age_s(job_id) > _CREATION_S:
                    self._storage.delete([key])
                continue
            queued = [number for number in job.pieces if self._tally(job_id, number).queued]
            if queued:
                yield from ((job_id, number) for number in queued)
            else:  # whoever did its last piece was killed then
                self.end(job_id)

    def dead(self, limit: int) -> list[Job]:
        """The latest jobs of which something was given up."""
        ids = sorted(self._ids(JobState.DEAD), reverse=True)
        return [self._read(job_id) for job_id in ids[:limit]]

    def count(self) -> dict[JobState, int]:
        """How many are kept."""
        unfinished, begun = set(self._ids(_OPEN)), set(self._ids(_BEGUN))
        self._begun &= begun  # without those that another replica has ended
        return {
            JobState.QUEUED: len(unfinished - begun),
            JobState.RUNNING: len(unfinished & begun),
            JobState.DONE: len(self._ids(JobState.DONE)),
            JobState.DEAD: len(self._ids(JobState.DEAD)),
        }

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


def _summary(tallies: Sequence[_Tally]) -> tuple[Counts, JobState]:
    queued, done, failed = (sum(t[i] for t in tallies) for i in range(3))
    counts = Counts(items=queued + done + failed, queued=queued, done=done, failed=failed)
    if not queued:
        return counts, JobState.DEAD if any(tally.dead for tally in tallies) else JobState.DONE
    begun = any(tally.begun for tally in tallies)
    return counts, JobState.RUNNING if begun else JobState.QUEUED


def _chunks(items: Sequence[ItemResult], size: int) -> Iterator[Sequence[ItemResult]]:
    return (items[start : start + size] for start in range(0, len(items), size))


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
