"""Locks that order writers: between the threads of this process, and over Redis between services.

A lock in Redis ends by itself, so that a killed service blocks nobody for long; and Redis may be
away. So who holds one is told whether it is surely alone, and does nothing otherwise that another
writer could not bear.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import redis
from redis.exceptions import LockError
from redis.lock import Lock

from service.coordination.store import Store
from service.errors import BusyError, CoordinationError

logger = logging.getLogger(__name__)

_LEASE_S = 60.0  # longer than a write takes
_WAIT_S = 10.0
_STRIPES = 64


class Locks:
    """Safe to share between threads; a thread that holds some must not ask for more."""

    def __init__(self, store: Store | None) -> None:
        """None: no other service writes where this one does."""
        self._store = store
        self._stripes = [threading.RLock() for _ in range(_STRIPES)]

    @contextmanager
    def hold(self, *names: str) -> Iterator[bool]:
        """Wait for these; tells whether nobody else can have them now. Raises BusyError."""
        with ExitStack() as held:
            # Always in one order, whoever asks: no two can wait for each other.
            for stripe in sorted({hash(name) % _STRIPES for name in names}):
                held.enter_context(self._stripes[stripe])
            alone = True
            for name in sorted(set(names)):
                alone &= self._lock(name, _WAIT_S, held)
            yield alone

    @contextmanager
    def try_hold(self, name: str) -> Iterator[bool]:
        """Whether no other service has it; where Redis is away, nobody knows of one."""
        with ExitStack() as held:
            try:
                self._lock(name, 0, held)
            except BusyError:
                yield False
            else:
                yield True

    def _lock(self, name: str, wait_s: float, held: ExitStack) -> bool:
        if self._store is None:
            return True
        try:
            lock = self._store.call(partial(_acquire, name=f"lpr:lock:{name}", wait_s=wait_s))
        except CoordinationError as error:
            logger.warning("a write is not ordered with those of other services: %s", error)
            return False
        if lock is None:
            raise BusyError("another service is writing this just now; send it again")
        held.callback(self._release, lock)
        return True

    def _release(self, lock: Lock) -> None:
        assert self._store is not None  # noqa: S101 - who gave it
        try:
            self._store.call(_releasing(lock))
        except CoordinationError as error:
            logger.warning("a lock is held until it ends by itself: %s", error)


def _acquire(client: redis.Redis, name: str, wait_s: float) -> Lock | None:
    lock = client.lock(name, timeout=_LEASE_S, sleep=0.02, thread_local=False)
    return lock if lock.acquire(blocking=wait_s > 0, blocking_timeout=wait_s or None) else None


def _releasing(lock: Lock) -> Callable[[redis.Redis], None]:
    def release(_: redis.Redis) -> None:
        try:
            lock.release()
        except LockError:
            logger.warning("a lock ended before the write that it was for")

    return release
