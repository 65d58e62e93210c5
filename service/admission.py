"""How many requests of a kind are let in, and the threads that do their blocking work.

A full house refuses at once, before the body is read; who was let in waits for a thread in a queue
that cannot grow beyond the house.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from service.errors import OverloadedError
from service.telemetry import Telemetry

T = TypeVar("T")


class Admission:
    """Entered and left on the event loop only, so that counting needs no lock."""

    def __init__(self, kind: str, most: int, threads: int, telemetry: Telemetry) -> None:
        self._most = most
        self._inside = 0
        self._in_flight = telemetry.in_flight.labels(kind)
        self._queue_size = telemetry.queue_size.labels(kind)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"lpr-{kind}")

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Raises OverloadedError when the house is full."""
        if self._inside >= self._most:
            raise OverloadedError(f"{self._most} requests are in flight; try again in a moment")
        self._inside += 1
        self._in_flight.inc()
        try:
            yield
        finally:
            self._inside -= 1
            self._in_flight.dec()

    async def run(self, work: Callable[[], T]) -> T:
        """`work` on a thread of this kind."""
        self._queue_size.inc()

        def begin() -> T:
            self._queue_size.dec()
            return work()

        context = contextvars.copy_context()  # of the request, for its trace
        return await asyncio.get_running_loop().run_in_executor(self._pool, context.run, begin)

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)
