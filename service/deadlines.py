"""How long the work in hand may still take, and whether anybody still waits for it.

A deadline belongs to one request and goes with the thread that works on it, as a context variable:
each stage can ask without being handed it. Work in the background has none and is never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from service.errors import ClientLeftError, DeadlineExceededError


class Deadline:
    """Made on one thread, asked on another."""

    def __init__(self, within_s: float) -> None:
        self._within_s = within_s
        self._at = time.monotonic() + within_s
        self._abandoned = False

    @property
    def left_s(self) -> float:
        return max(0.0, self._at - time.monotonic())

    def abandon(self) -> None:
        """Nobody waits any more: let the next `check` end the work."""
        self._abandoned = True

    def check(self) -> None:
        """Raises ClientLeftError, DeadlineExceededError."""
        if self._abandoned:
            raise ClientLeftError("the client left before its answer was ready")
        if self.left_s <= 0:
            raise self.exceeded()

    def exceeded(self) -> DeadlineExceededError:
        return DeadlineExceededError(
            f"there was no answer within {self._within_s:g} s; try again, with a smaller request "
            "if that repeats itself"
        )


_current: ContextVar[Deadline | None] = ContextVar("deadline", default=None)


@contextmanager
def working_under(deadline: Deadline | None) -> Iterator[None]:
    """What is called within keeps to `deadline`; None lets it take its time."""
    token = _current.set(deadline)
    try:
        yield
    finally:
        _current.reset(token)


def check() -> None:
    """To be called between stages. Raises ClientLeftError, DeadlineExceededError."""
    deadline = _current.get()
    if deadline is not None:
        deadline.check()


def timeout_s(at_most: float) -> float:
    """For one call to another part: `at_most`, or what is left. Raises as `check`."""
    check()
    deadline = _current.get()
    return at_most if deadline is None else min(at_most, max(0.001, deadline.left_s))
