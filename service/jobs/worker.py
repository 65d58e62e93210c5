"""The story of accepted work: piece after piece is made searchable, on whichever replica is free.

What is worked on is durable already, in the catalogue; here the index follows. While something the
service stands on is away, a piece waits in its worker's hands and costs no attempt. What fails
otherwise is tried five times in all, and then told as dead. Without Redis every replica goes
through all that is unfinished by itself: that is work done twice, and nothing worse.

Lets recognitions go first: products are indexed a few at a time, each time when nobody is being
answered, or after a moment all the same, and then fewer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import groupby, islice
from typing import Protocol

from service.errors import (
    CoordinationError,
    GivenUpError,
    InferenceError,
    JobNotFoundError,
    LPRError,
    StorageFullError,
    UnavailableError,
)
from service.jobs.queue import Claim, Work, WorkQueue
from service.jobs.records import ItemResult, ItemStatus, Jobs, JobState, Piece

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 5
_PRODUCTS_AT_ONCE = 16
_WHILE_BUSY = 4  # while recognitions are being answered
_LOOK_S = 10.0  # between looks for unfinished pieces that are not in the queue
_RETRY_S = 2.0  # while something is away
_COUNT_S = 15.0
_FORGET_S = 600.0  # also between counts of the jobs that are done
_POLITE_S = 0.25  # the longest that recognitions hold up a few products
_GLANCE_S = 0.01


class Finisher(Protocol):
    """What is asked of `service.indexing.Indexer`."""

    def finish(self, shop_id: str, product_ids: Sequence[str]) -> Mapping[str, LPRError]: ...


Outcomes = dict[str, tuple[ItemStatus, LPRError | None]]  # by product


class _StoppingError(Exception):
    """The worker is asked to stop, and the piece is not done."""


class _TakenOverError(Exception):
    """The piece is in another worker's hands now."""


class Housekeeper:
    """Forgets old jobs and tells how many there are: one for all workers of a service, of whom
    the first that comes by does it."""

    def __init__(self, jobs: Jobs, tell: Callable[[Mapping[JobState, int]], None]) -> None:
        """`tell` is told how many jobs there are, of those that are done not each time."""
        self._jobs = jobs
        self._tell = tell
        self._count_at = 0.0
        self._forget_at = 0.0
        self._turn = threading.Lock()

    def look(self) -> None:
        """Do what it is time for. Raises UnavailableError, StorageFullError."""
        if self._turn.acquire(blocking=False):
            try:
                self._look(time.monotonic())
            finally:
                self._turn.release()

    def _look(self, now: float) -> None:
        if now < self._count_at:
            return
        self._count_at = now + _COUNT_S
        is_time_for_all = now >= self._forget_at
        if is_time_for_all:
            self._forget_at = now + _FORGET_S
            self._jobs.forget_old()
        self._tell(self._jobs.count(done=is_time_for_all))


class Worker:
    """One thread calls `run`; `stop` lets it return, after the few products in its hands."""

    def __init__(
        self,
        jobs: Jobs,
        queue: WorkQueue,
        indexer: Finisher,
        is_busy: Callable[[], bool],
        housekeeper: Housekeeper,
    ) -> None:
        """`is_busy` says whether recognitions are being answered."""
        self._jobs = jobs
        self._queue = queue
        self._indexer = indexer
        self._is_busy = is_busy
        self._housekeeper = housekeeper
        self._stopping = threading.Event()
        self._look_at = 0.0

    def stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        """Work until `stop`."""
        while not self._stopping.is_set():
            try:
                self.step()
            except (UnavailableError, StorageFullError) as error:
                logger.warning("jobs go on later: %s", error)
                self._stopping.wait(_RETRY_S)
            except Exception:  # a worker that ended would leave its replica's jobs to nobody
                logger.exception("a job's worker failed, and goes on")
                self._stopping.wait(_RETRY_S)

    def step(self) -> None:
        """Do a piece if there is one in a moment, else look for forgotten ones when it is time.

        Raises UnavailableError, StorageFullError.
        """
        self._housekeeper.look()
        try:
            claim = self._queue.take()
            if claim is None and self._is_time_to_look():
                self._queue.add(Work(*place) for place in self._jobs.unfinished())
        except CoordinationError:
            if self._is_time_to_look():
                self._work_alone()
            raise
        if claim is not None:
            self._work(claim)

    def _is_time_to_look(self) -> bool:
        now = time.monotonic()
        is_time = now >= self._look_at
        if is_time:
            self._look_at = now + _LOOK_S
        return is_time

    def _work(self, claim: Claim) -> None:
        try:
            with self._queue.kept(claim):
                piece = self._attempt(claim.work, lambda: self._keep(claim))
        except JobNotFoundError:  # it was too old to be kept
            self._queue.finish(claim)
        except _StoppingError:
            self._queue.give_back(claim)
        except _TakenOverError:
            logger.warning("another worker has taken a piece over", extra=claim.work._asdict())
        else:
            if piece.dead:
                self._queue.bury(claim, piece.attempts, _reason(piece))
            elif piece.has_ended:
                self._queue.finish(claim)
            # Else it lies as if abandoned, and is tried again by who takes it over.

    def _work_alone(self) -> None:
        for place in self._jobs.unfinished():
            try:
                self._attempt(Work(*place), lambda: None, alone=False)
            except _StoppingError:
                return

    def _keep(self, claim: Claim) -> None:
        try:
            if not self._queue.keep(claim):
                raise _TakenOverError
        except CoordinationError:  # without Redis nobody hands it to another
            return

    def _attempt(self, work: Work, keep: Callable[[], None], *, alone: bool = True) -> Piece:
        """The piece after another attempt. Raises JobNotFoundError, and what `_index` does.

        Who is not `alone` with it does not count attempts, nor give up: each of many would.
        """
        piece = self._jobs.piece(*work)
        if not piece.has_ended and piece.attempts < MAX_ATTEMPTS:
            piece = self._save(work, piece, attempts=piece.attempts + alone)
            piece = self._index(work, piece, keep, alone=alone)
        if alone and not piece.has_ended and piece.attempts >= MAX_ATTEMPTS:
            items = tuple(map(_given_up, piece.items))
            piece = self._save(work, piece, items=items, dead=True)
            logger.error("given up", extra=work._asdict() | {"reason": _reason(piece)})
        if piece.has_ended:
            with suppress(JobNotFoundError):  # its items still come in: who takes them in ends it
                self._jobs.end(work.job_id)
        return piece

    def _index(self, work: Work, piece: Piece, keep: Callable[[], None], *, alone: bool) -> Piece:
        """Raises _StoppingError, _TakenOverError."""
        for shop_id, product_ids in _few(piece.items, self._how_many):
            try:
                found = self._finish_when_possible(shop_id, product_ids, keep)
            except _StoppingError:  # no fault of the piece
                keep()
                self._save(work, piece, attempts=piece.attempts - alone)
                raise
            keep()
            piece = self._jobs.piece(*work)  # another may have done more of it meanwhile
            items = tuple(
                item.turned(*found[item.product_id])
                if item.status is ItemStatus.QUEUED
                and item.shop_id == shop_id
                and item.product_id in found
                else item
                for item in piece.items
            )
            piece = self._save(work, piece, items=items)
        return piece

    def _finish_when_possible(
        self, shop_id: str, product_ids: Sequence[str], keep: Callable[[], None]
    ) -> Outcomes:
        while not self._stopping.is_set():
            try:
                return self._finish(shop_id, product_ids)
            except (UnavailableError, StorageFullError) as error:
                logger.warning("a job waits: %s", error)
            self._stopping.wait(_RETRY_S)
            keep()
        raise _StoppingError

    def _finish(self, shop_id: str, product_ids: Sequence[str]) -> Outcomes:
        """What fails together is tried apart, so that one product is not another's misfortune."""
        try:
            failed = self._indexer.finish(shop_id, product_ids)
        except InferenceError as error:
            failure: LPRError = error
        except (UnavailableError, StorageFullError):
            raise
        except Exception:  # a bug that a product brought to light: the others shall not wait
            logger.exception("products of a job failed", extra={"shop_id": shop_id})
            failure = LPRError("an unexpected error happened; the log has it")
        else:
            return {name: _outcome(failed.get(name)) for name in product_ids}
        if len(product_ids) == 1:
            return {product_ids[0]: (ItemStatus.QUEUED, failure)}
        outcomes: Outcomes = {}
        for product_id in product_ids:
            outcomes |= self._finish(shop_id, [product_id])
        return outcomes

    def _how_many(self) -> int:
        """Products to be done next; recognitions go first, and must not wait long for the next."""
        deadline = time.monotonic() + _POLITE_S
        while self._is_busy():
            if time.monotonic() >= deadline:
                return _WHILE_BUSY
            self._stopping.wait(_GLANCE_S)
        return _PRODUCTS_AT_ONCE

    def _save(self, work: Work, piece: Piece, **changes: object) -> Piece:
        changed = piece.model_copy(update=changes)
        self._jobs.save(*work, changed)
        return changed


def _outcome(error: LPRError | None) -> tuple[ItemStatus, LPRError | None]:
    if error is None:
        return ItemStatus.DONE, None
    may_pass = isinstance(error, InferenceError)
    return (ItemStatus.QUEUED if may_pass else ItemStatus.FAILED), error


def _given_up(item: ItemResult) -> ItemResult:
    if item.status is not ItemStatus.QUEUED:
        return item
    last = "" if item.error is None else f"; the last time: {item.error.detail}"
    return item.turned(
        ItemStatus.FAILED,
        GivenUpError(
            f"it is stored, but could not be indexed in {MAX_ATTEMPTS} attempts{last}; "
            "it is tried again now and then, and at once when it is posted again"
        ),
    )


def _reason(piece: Piece) -> str:
    return next((item.error.detail for item in piece.items if item.error is not None), "")


def _few(
    items: Sequence[ItemResult], how_many: Callable[[], int]
) -> Iterator[tuple[str, list[str]]]:
    """Some products of one shop at a time, of those that are still to be done."""
    queued = [
        (item.shop_id, item.product_id)
        for item in items
        if item.status is ItemStatus.QUEUED and item.shop_id and item.product_id
    ]
    for shop_id, places in groupby(queued, key=lambda place: place[0]):
        names = (name for _, name in places)
        while few := list(islice(names, how_many())):
            yield shop_id, few
