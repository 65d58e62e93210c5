"""How long the work in hand may still take, and whether anybody still waits for it.

A deadline belongs to one request and goes with the work on it, as a context variable: each stage
can ask without being handed it. Work in the background has none and is never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from service.errors import ClientLeftError, DeadlineExceededError, LPRError

# A request ends by its own deadline, with the answer that says so, rather than by a call's timeout.
# And there is no timeout of 0, which means "none" to some libraries.
_GRACE_S = 0.1


class Deadline:
    """Made on the event loop, asked on any thread."""

    def __init__(self, within_s: float, client_left: Callable[[], Awaitable[None]]) -> None:
        """`client_left` returns once nobody waits for the answer any more."""
        self.client_left = client_left
        self.waited_s = 0.0  # for its turn, in the midst of its work
        self._within_s = within_s
        self._abandoned = False
        self.restart()

    def restart(self) -> None:
        """Time is counted from now."""
        self._at = time.monotonic() + self._within_s

    def extend(self, within_s: float) -> None:
        """Time is counted from now."""
        self._within_s = within_s
        self.restart()

    @property
    def left_s(self) -> float:
        return max(0.0, self._at - time.monotonic())

    def abandon(self) -> None:
        """The next `check` ends the work."""
        self._abandoned = True

    def check(self) -> None:
        """Raises ClientLeftError, DeadlineExceededError."""
        if self._abandoned or self.left_s <= 0:
            raise self.over(left=self._abandoned)

    def over(self, *, left: bool) -> LPRError:
        """The request's end: its client has `left`, or waited long enough."""
        if left:
            return ClientLeftError("the client left before its answer was ready")
        return DeadlineExceededError(f"there was no answer within {self._within_s:g} s; try again")


_current: ContextVar[Deadline | None] = ContextVar("deadline", default=None)


def current() -> Deadline | None:
    """That of the request that is worked on here; None in the background."""
    return _current.get()


@contextmanager
def working_under(deadline: Deadline) -> Iterator[None]:
    """All that is called within keeps to `deadline`."""
    token = _current.set(deadline)
    try:
        yield
    finally:
        _current.reset(token)


def check() -> None:
    """To be called between stages. Raises ClientLeftError, DeadlineExceededError."""
    deadline = current()
    if deadline is not None:
        deadline.check()


def waited_s() -> float:
    """How long the request in hand has waited for its turn in the midst of its work, so far."""
    deadline = current()
    return 0.0 if deadline is None else deadline.waited_s


def extend(within_s: float) -> None:
    """The request in hand is one that takes longer than most; time is counted from now."""
    deadline = current()
    if deadline is not None:
        deadline.extend(within_s)


def timeout_s(at_most: float) -> float:
    """For one call to another part: `at_most`, or what is left. Raises as `check` does."""
    check()
    deadline = current()
    return at_most if deadline is None else min(at_most, deadline.left_s + _GRACE_S)
