"""A circuit breaker: a part that fails or hangs is left alone until it answers again.

Closed, calls pass. It opens on failures in a row, or while a call hangs; then every call is refused
at once, and a thread of its own tries (half-open) until the part answers. So no request is spent on
trying, and none waits for the timeout that the one before it has just waited for.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.errors import ClientLeftError, DeadlineExceededError, UnavailableError

logger = logging.getLogger(__name__)

_FAILURES = 3
_REST_S = 0.5  # between trials


class Breaker:
    """Safe to share between threads."""

    def __init__(
        self,
        name: str,
        probe: Callable[[], None],
        refusal: type[UnavailableError],
        *,
        slow_s: float | None,
    ) -> None:
        """`probe` raises `refusal` until the part answers, within a few seconds. A call is taken to
        hang after `slow_s`; None where calls may take their time.
        """
        self._name = name
        self._probe = probe
        self._refusal = refusal
        self._slow_s = slow_s
        self._failures = 0
        self._running: set[_Call] = set()
        self._guard = threading.Lock()  # of the two above
        self._closing = threading.Event()
        self.is_open = False

    @contextmanager
    def call(self, *, is_long: bool = False) -> Iterator[None]:
        """Around one call. Raises the refusal while open; a refusal raised within is a failure, and
        the end of the request that it was for says nothing. A call that `is_long` has only its own
        timeout: it is never taken to hang."""
        call = self._enter(is_long=is_long)
        failed: bool | None = False
        try:
            yield
        except self._refusal:
            failed = True
            raise
        except (DeadlineExceededError, ClientLeftError):
            failed = None
            raise
        finally:
            self._leave(call, failed=failed)

    def progress(self) -> None:
        """The call that this thread is in has come further: it does not hang."""
        with self._guard:
            for call in self._running:
                if call.thread == threading.get_ident():
                    call.began = time.monotonic()

    def close(self) -> None:
        """End the trials."""
        self._closing.set()

    def _enter(self, *, is_long: bool) -> _Call:
        with self._guard:
            if not self.is_open and any(self._hangs(call) for call in self._running):
                self._open("a call hangs")
            if self.is_open:
                raise self._refusal(f"{self._name} does not answer; it is tried again meanwhile")
            call = _Call(is_long=is_long)
            self._running.add(call)
            return call

    def _leave(self, call: _Call, *, failed: bool | None) -> None:
        with self._guard:
            if call not in self._running:  # from before it opened: its end says nothing of today
                return
            self._running.remove(call)
            if failed is not None:
                self._failures = self._failures + 1 if failed else 0
            if failed is not False and self._hangs(call):
                self._open("a call hung")
            elif self._failures >= _FAILURES:
                self._open(f"{_FAILURES} calls in a row failed")

    def _hangs(self, call: _Call) -> bool:
        if self._slow_s is None or call.is_long:
            return False
        return time.monotonic() - call.began > self._slow_s

    def _open(self, reason: str) -> None:
        logger.warning("%s is left alone: %s", self._name, reason)
        self.is_open = True
        self._failures = 0
        self._running.clear()
        threading.Thread(target=self._try, name=f"lpr-try-{self._name}", daemon=True).start()

    def _try(self) -> None:
        while not self._closing.wait(_REST_S):
            try:
                self._probe()
            except self._refusal:
                continue
            logger.warning("%s answers again", self._name)
            self.is_open = False
            return


class _Call:
    def __init__(self, *, is_long: bool) -> None:
        self.is_long = is_long
        self.began = time.monotonic()
        self.thread = threading.get_ident()
