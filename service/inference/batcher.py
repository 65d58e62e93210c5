"""The line in front of the encoders: what waits together runs together, the urgent first.

While a run is under way others arrive, and the next run takes as many of them as fit: nobody waits
for company unless that was asked for. There is no thread for it. Whoever waits while nothing runs,
runs what is first in line, their own or not, and hands the others their answers.

What is done for a request is urgent; what is done in the background (jobs, reindexing: it has no
deadline) goes when nothing urgent waits, or has waited long enough. A request that is over leaves
the line without having been run. Knows nothing of graphs; who may ask at all is for
`service.admission` to say, so a full line makes its callers wait for room.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from service import deadlines
from service.deadlines import Deadline
from service.errors import LPRError
from service.telemetry import Telemetry

_MOST_ROWS = 512  # in line
_PATIENCE_S = 2.0  # of background work: from then on it goes as urgent work does

ItemT = TypeVar("ItemT")
AnswerT = TypeVar("AnswerT")


@dataclass(frozen=True, eq=False)
class Kind(Generic[ItemT, AnswerT]):
    """Items that can be run together."""

    name: str  # the graph's
    most_rows: int  # of one run; an item that has more is run alone
    run: Callable[[Sequence[ItemT]], Sequence[AnswerT]]  # an answer for each item


@dataclass(frozen=True, eq=False)
class _Place:
    """An item in line."""

    kind: Kind[Any, Any]
    item: Any
    rows: int
    deadline: Deadline | None
    since: float = field(default_factory=time.monotonic)
    answer: Future[Any] = field(default_factory=Future)

    def is_urgent(self, now: float) -> bool:
        return self.deadline is not None or now - self.since >= _PATIENCE_S

    def is_given_up(self) -> bool:
        """Whether its request is over; then that is its answer."""
        try:
            if self.deadline is not None:
                self.deadline.check()
        except LPRError as error:
            self.answer.set_exception(error)
            return True
        return False


class Batcher:
    """One run at a time. Safe to share between threads, and between all models of one device."""

    def __init__(self, telemetry: Telemetry, *, wait_s: float = 0.0) -> None:
        """`wait_s`: how long the first in line may wait for others to fill its run."""
        self._telemetry = telemetry
        self._wait_s = wait_s
        self._line: list[_Place] = []  # in the order of their coming
        self._changed = threading.Condition()
        self._is_running = False

    def run(self, kind: Kind[ItemT, AnswerT], item: ItemT, rows: int = 1) -> AnswerT:
        """The item's answer, in its turn; `rows` is what it adds to the size of its run.

        Raises what `kind.run` raises for this item alone, and, if its request was over before its
        turn came, as `deadlines.check` does.
        """
        place = _Place(kind, item, rows, deadlines.current())
        self._enter(place)
        while batch := self._turn(place):
            with self._running(batch):
                _run(batch)
        answer: AnswerT = place.answer.result()
        return answer

    def _enter(self, place: _Place) -> None:
        with self._changed:
            while self._line and _rows(self._line) + place.rows > _MOST_ROWS:
                self._changed.wait(None if place.deadline is None else place.deadline.left_s)
                deadlines.check()
            self._line.append(place)
            self._telemetry.batch_queue_size.labels(place.kind.name).inc(place.rows)
            self._changed.notify_all()  # somebody may wait for their run to be full

    def _turn(self, place: _Place) -> list[_Place]:
        """What the caller is to run now; nothing once its own place is answered."""
        with self._changed:
            while True:
                self._leave([other for other in self._line if other.is_given_up()])
                if place.answer.done():
                    return []
                batch = [] if self._is_running else self._next()
                patience_s = self._patience_s(batch) if batch else None
                if batch and not patience_s:
                    self._leave(batch)
                    self._is_running = True
                    return batch
                self._changed.wait(patience_s)

    @contextmanager
    def _running(self, batch: Sequence[_Place]) -> Iterator[None]:
        name, start = batch[0].kind.name, time.monotonic()
        self._telemetry.batch_size.labels(name).observe(_rows(batch))
        for place in batch:
            self._telemetry.batch_wait_seconds.labels(name).observe(start - place.since)
            if place.deadline is not None:
                place.deadline.waited_s += start - place.since
        try:
            yield
        finally:
            self._telemetry.batch_seconds.labels(name).observe(time.monotonic() - start)
            with self._changed:
                self._is_running = False
                self._changed.notify_all()

    def _next(self) -> list[_Place]:
        """The first in line, and those after it that are of its kind, as urgent, and fit in."""
        now = time.monotonic()
        first = next((place for place in self._line if place.is_urgent(now)), self._line[0])
        batch: list[_Place] = []
        for place in self._line:
            if place.kind is first.kind and place.is_urgent(now) == first.is_urgent(now):
                if batch and _rows(batch) + place.rows > first.kind.most_rows:
                    break
                batch.append(place)
        return batch

    def _patience_s(self, batch: Sequence[_Place]) -> float:
        """How long this batch should still wait for others."""
        if _rows(batch) >= batch[0].kind.most_rows:
            return 0.0
        return max(0.0, batch[0].since + self._wait_s - time.monotonic())

    def _leave(self, leaving: Sequence[_Place]) -> None:
        for place in leaving:
            self._line.remove(place)
            self._telemetry.batch_queue_size.labels(place.kind.name).dec(place.rows)


def _run(batch: Sequence[_Place]) -> None:
    """Answers all of them: each with its own error where they cannot be run together."""
    items = [place.item for place in batch]
    try:
        # In no request's context: the run is not for the caller alone.
        answers = Context().run(batch[0].kind.run, items)
    except Exception as error:  # noqa: BLE001 - raised where it is waited for
        if len(batch) == 1:
            batch[0].answer.set_exception(error)
            return
        for place in batch:
            _run([place])
        return
    for place, answer in zip(batch, answers, strict=True):
        place.answer.set_result(answer)


def _rows(places: Sequence[_Place]) -> int:
    return sum(place.rows for place in places)
