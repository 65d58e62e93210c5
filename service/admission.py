"""How many requests of a kind are let in, and the threads that do their blocking work.

A full house refuses at once, before the body is read; who was let in waits for a thread in a queue
that cannot grow beyond the house. The queue takes up bursts. Where it was too short for the load it
would only make everybody wait, so then nobody may wait until there was a while that took more than
it refused.
Kinds that need the same cores share a house: its threads are one budget, and a kind that may not
have all of them cannot keep the others out where it hangs. Some threads may be spare, in the place
of those that are held up by something else than cores; while nobody may wait, none is taken in for
them, for more at once would only make each slower.
Work that nobody waits for any more is dropped before it begins; what has begun finds out by
`deadlines.check`.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from service.deadlines import current
from service.errors import OverloadedError
from service.telemetry import Telemetry

_PRESSED_S = 3.0  # from a refusal on, at least
_LONGEST_RETRY_S = 30
_SMOOTHING = 0.1  # the weight of the latest work in the mean of their times

T = TypeVar("T")


class House:
    """The threads that some kinds of work have together; counted on the event loop only."""

    def __init__(self, threads: int, spare: int = 0) -> None:
        self.threads = threads
        self.spare = spare  # of them
        self.free = asyncio.Semaphore(threads)
        self.working = 0  # on a thread, or waiting for one
        self._pressed_until = 0.0
        self._taken = self._refused = 0  # since it is pressed

    def lets_wait(self) -> bool:
        """Not from a refusal on, until there was a while that took more than it refused."""
        now = time.monotonic()
        if now >= self._pressed_until and self._refused > self._taken:
            self._press(now)
        return now >= self._pressed_until

    def take(self) -> None:
        self._taken += 1

    def refuse(self) -> None:
        if self.lets_wait():
            self._press(time.monotonic())
        else:
            self._refused += 1

    def _press(self, now: float) -> None:
        self._pressed_until = now + _PRESSED_S
        self._taken = self._refused = 0


class Admission:
    """Entered and left on the event loop only, so that counting needs no lock."""

    def __init__(
        self,
        kind: str,
        telemetry: Telemetry,
        house: House,
        *,
        most: int,
        threads: int,
        waiting: int,
        finishes: bool = False,
    ) -> None:
        """`most` are inside, their bodies still arriving or not; of those up to `waiting` wait for
        one of the `threads` that this kind may have of its house's. `finishes`: what has begun goes
        on though its client has left.
        """
        self._house = house
        self._most = most
        self._threads = threads
        self._waiting = waiting
        self._finishes = finishes
        self._inside = 0
        self._running = 0  # on a thread
        self._queued = 0  # waiting for one
        self._mean_s = 0.0
        self._free = asyncio.Semaphore(threads)
        self._in_flight = telemetry.in_flight.labels(kind)
        self._queue_size = telemetry.queue_size.labels(kind)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"lpr-{kind}")

    @property
    def is_busy(self) -> bool:
        """Whether some work is on a thread, or waits for one; any thread may ask."""
        return self._working > 0

    def check(self) -> None:
        """Raises OverloadedError when the house is full."""
        if self._inside >= self._most:
            raise self._overloaded(self._inside)
        self._check_queue()

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Raises OverloadedError when the house is full."""
        self.check()
        self._inside += 1
        self._in_flight.inc()
        try:
            yield
        finally:
            self._inside -= 1
            self._in_flight.dec()

    async def run(self, work: Callable[[], T], *, begun: bool = False) -> T:
        """`work` on a thread of this kind, for as long as the request has and its client waits.

        What the request has `begun` is not refused half way. Raises OverloadedError,
        DeadlineExceededError, ClientLeftError, and what `work` raises.
        """
        if not begun:
            self._check_queue()
        self._house.take()
        turn = _Turn()
        self._queued += 1
        self._house.working += 1
        self._queue_size.inc()
        try:
            return await self._while_wanted(self._on_thread(work, turn))
        finally:
            if not turn.has_come:
                self._leave_queue()
                self._house.working -= 1

    async def _while_wanted(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, unless its request is over before."""
        deadline = current()
        if deadline is None:
            return await work
        working = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(deadline.client_left())
        try:
            await asyncio.wait(
                (working, leaving), timeout=deadline.left_s, return_when=asyncio.FIRST_COMPLETED
            )
            if working.done():
                return working.result()
            raise deadline.over(left=leaving.done())
        finally:
            leaving.cancel()
            if working.cancel() and not self._finishes:
                deadline.abandon()

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    async def _on_thread(self, work: Callable[[], T], turn: _Turn) -> T:
        await self._free.acquire()
        try:
            await self._house.free.acquire()
        except BaseException:
            self._free.release()
            raise
        turn.has_come = True
        self._leave_queue()
        self._running += 1
        loop, began = asyncio.get_running_loop(), time.monotonic()
        context = contextvars.copy_context()  # of the request: its trace and its deadline
        running = self._pool.submit(context.run, work)

        def ended(_: Future[T]) -> None:  # on the thread; the work may have outlived its request
            loop.call_soon_threadsafe(self._leave_thread, time.monotonic() - began)

        running.add_done_callback(ended)
        return await asyncio.wrap_future(running)

    def _leave_queue(self) -> None:
        self._queued -= 1
        self._queue_size.dec()

    def _leave_thread(self, took_s: float) -> None:
        self._house.free.release()
        self._house.working -= 1
        self._free.release()
        self._running -= 1
        self._mean_s += _SMOOTHING * (took_s - self._mean_s)

    @property
    def _working(self) -> int:
        return self._running + self._queued

    def _check_queue(self) -> None:
        house = self._house
        beyond = self._waiting if house.lets_wait() else -house.spare
        most = house.threads + beyond
        # What is left has to do for all kinds: who may not have all threads may not have these all.
        here = min(self._threads + max(0, beyond), most - (self._threads < house.threads))
        if self._working >= here or house.working >= most:
            raise self._overloaded(house.working)

    def _overloaded(self, ahead: int) -> OverloadedError:
        """It tells to come again when those who are ahead will be done, as times are."""
        self._house.refuse()
        error = OverloadedError(f"{ahead} requests are in flight; try again in a moment")
        wait_s = self._house.working * self._mean_s / self._house.threads
        error.retry_after_s = min(_LONGEST_RETRY_S, max(1, math.ceil(wait_s)))
        return error


class _Turn:
    has_come = False
