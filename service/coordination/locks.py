"""Locks that order writers: between the threads of this process, and over Redis between services.

A lock in Redis ends by itself unless it is renewed, so that a killed service blocks nobody for long
and a slow one keeps what it has; and Redis may be away, or forget. So who holds one can ask whether
it is surely alone, and does nothing otherwise that another writer could not bear.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

import redis
from redis.exceptions import LockError
from redis.lock import Lock

from service.coordination.store import Store
from service.errors import BusyError, CoordinationError

logger = logging.getLogger(__name__)

_LEASE_S = 15.0  # of a service that does not renew it any more
_RENEWALS = 3  # in that time
_WAIT_S = 10.0
_STRIPES = 64


class Locks:
    """Safe to share between threads; a thread that holds some must not ask for more."""

    def __init__(self, store: Store | None) -> None:
        """None: no other service writes where this one does."""
        self._store = store
        self._stripes = [threading.RLock() for _ in range(_STRIPES)]

    @contextmanager
    def hold(self, *names: str) -> Iterator[Callable[[], bool]]:
        """Wait for these; who is given tells whether nobody else can have them now, to be asked
        each time anew. Raises BusyError."""
        with ExitStack() as held:
            # Always in one order, whoever asks: no two can wait for each other.
            for stripe in sorted({hash(name) % _STRIPES for name in names}):
                held.enter_context(self._stripes[stripe])
            locks = [self._lock(name, _WAIT_S, held) for name in sorted(set(names))]
            with _renewed(locks):
                yield partial(self._are_ours, locks)

    @contextmanager
    def try_hold(self, name: str) -> Iterator[bool]:
        """Whether no other service has it; where Redis is away, nobody knows of one."""
        with ExitStack() as held:
            try:
                lock = self._lock(name, 0, held)
            except BusyError:
                yield False
            else:
                with _renewed([lock]):
                    yield True

    def _are_ours(self, locks: Iterable[Lock | None]) -> bool:
        if self._store is None:
            return True
        try:
            return all(lock is not None and self._store.call(_owning(lock)) for lock in locks)
        except CoordinationError:
            return False

    def _lock(self, name: str, wait_s: float, held: ExitStack) -> Lock | None:
        """None: there is nobody to ask for it. Raises BusyError."""
        if self._store is None:
            return None
        try:
            lock = self._store.call(
                partial(_acquire, name=self._store.key("lock", name), wait_s=wait_s)
            )
        except CoordinationError as error:
            logger.warning("a write is not ordered with those of other services: %s", error)
            return None
        if lock is None:
            raise BusyError("another service is writing this just now; send it again")
        held.callback(self._release, lock)
        return lock

    def _release(self, lock: Lock) -> None:
        assert self._store is not None  # noqa: S101 - who gave it
        try:
            self._store.call(_releasing(lock))
        except CoordinationError as error:
            logger.warning("a lock is held until it ends by itself: %s", error)


@contextmanager
def _renewed(locks: Iterable[Lock | None]) -> Iterator[None]:
    """Keep what is held for as long as it is."""
    over = threading.Event()
    held = [lock for lock in locks if lock is not None]

    def renew() -> None:
        while not over.wait(_LEASE_S / _RENEWALS):
            for lock in held:
                with suppress(LockError, redis.RedisError):  # its release tells of one that ended
                    lock.reacquire()

    if held:
        threading.Thread(target=renew, name="lpr-lease", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _acquire(client: redis.Redis, name: str, wait_s: float) -> Lock | None:
    lock = client.lock(name, timeout=_LEASE_S, sleep=0.02, thread_local=False)
    return lock if lock.acquire(blocking=wait_s > 0, blocking_timeout=wait_s or None) else None


def _owning(lock: Lock) -> Callable[[redis.Redis], bool]:
    def owns(_: redis.Redis) -> bool:
        return bool(lock.owned())

    return owns


def _releasing(lock: Lock) -> Callable[[redis.Redis], None]:
    def release(_: redis.Redis) -> None:
        try:
            lock.release()
        except LockError:
            logger.warning("a lock ended before the write that it was for")

    return release
