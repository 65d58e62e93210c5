"""Which piece of which job is whose turn: a Redis stream that all replicas take from.

Each piece is handed to one worker, who says all the while that it is still at it; after
`takeover_s` of silence another one takes over. Pieces that were given up are told in a stream of
their own, `…:{jobs}:dead`, for whoever watches Redis. Everything here is a hint: a flushed Redis
is filled again from `Jobs.unfinished`, and a piece that is handed out twice is only done twice.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import redis

from service.coordination.store import Store
from service.errors import CoordinationError

logger = logging.getLogger(__name__)

T = TypeVar("T")

# In braces what Redis Cluster hashes, so that the scripts may touch them together.
_STREAM = ("{jobs}", "work")
_KNOWN = ("{jobs}", "known")  # pieces in the stream: one that is added twice is there once
_DEAD = ("{jobs}", "dead")
_GROUP = "workers"
_MOST_DEAD = 10_000
_LONGEST_WAIT_S = 0.5
_LOOKS_A_TAKEOVER = 4
_KEEPS_A_TAKEOVER = 4

_ADD = """
if redis.call('SADD', KEYS[2], ARGV[1] .. ' ' .. ARGV[2]) == 1 then
  redis.call('XADD', KEYS[1], '*', 'job', ARGV[1], 'piece', ARGV[2])
end
"""
_REMOVE = """
redis.call('XACK', KEYS[1], ARGV[3], ARGV[4])
redis.call('XDEL', KEYS[1], ARGV[4])
redis.call('SREM', KEYS[2], ARGV[1] .. ' ' .. ARGV[2])
"""
_KEEP = """
local mine = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[3], ARGV[3], 1, ARGV[2])
if #mine == 0 then return 0 end
redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[3], 'JUSTID')
return 1
"""


class Work(NamedTuple):
    """A piece of a job."""

    job_id: str
    piece: int


@dataclass(frozen=True)
class Claim:
    """A piece in somebody's hands."""

    entry: str
    work: Work


class WorkQueue:
    """One worker's view of the queue; `add` may be called by any thread.

    Every method raises CoordinationError while Redis is away.
    """

    def __init__(self, store: Store, *, takeover_s: float, redis_timeout_s: float) -> None:
        self._store = store
        self._stream, self._known = store.key(*_STREAM), store.key(*_KNOWN)
        self._takeover_s = takeover_s
        # Redis must answer before its client gives it up.
        self._wait_ms = max(1, int(1e3 * min(_LONGEST_WAIT_S, redis_timeout_s / 2)))
        self._name = secrets.token_hex(8)
        self._cursor = "0-0"
        self._look_at = 0.0

    def add(self, works: Iterable[Work]) -> None:
        """Hand these out, each unless it already waits or is in somebody's hands."""
        for work in works:
            self._script(_ADD, work.job_id, str(work.piece))

    def take(self) -> Claim | None:
        """A piece that its worker abandoned, or the next one; None if none comes in a moment."""
        return self._take_over() or self._next()

    def keep(self, claim: Claim) -> bool:
        """Say that it is still worked on; False: it is another's now."""
        kept: Any = self._in_group(
            lambda client: client.eval(_KEEP, 1, self._stream, _GROUP, self._name, claim.entry)
        )
        return bool(kept)

    @contextmanager
    def kept(self, claim: Claim) -> Iterator[None]:
        """Say all the while that it is still worked on, however long a step of that takes."""
        over = threading.Event()

        def keep() -> None:
            is_ours = True
            while is_ours and not over.wait(self._takeover_s / _KEEPS_A_TAKEOVER):
                with suppress(CoordinationError):  # without Redis nobody takes it over
                    is_ours = self.keep(claim)

        threading.Thread(target=keep, name="lpr-claim", daemon=True).start()
        try:
            yield
        finally:
            over.set()

    def finish(self, claim: Claim) -> None:
        work = claim.work
        self._script(_REMOVE, work.job_id, str(work.piece), _GROUP, claim.entry)

    def give_back(self, claim: Claim) -> None:
        """Let another worker have it at once."""
        self.finish(claim)
        self.add([claim.work])

    def bury(self, claim: Claim, attempts: int, reason: str) -> None:
        """Tell of a piece that is given up, and finish it."""
        letter: Any = {
            "job": claim.work.job_id,
            "piece": claim.work.piece,
            "attempts": attempts,
            "reason": reason,
        }
        dead = self._store.key(*_DEAD)
        self._store.call(
            lambda client: client.xadd(dead, letter, maxlen=_MOST_DEAD, approximate=True)
        )
        self.finish(claim)

    def _take_over(self) -> Claim | None:
        """The next abandoned piece. One look is over when its cursor is back at the start."""
        if self._cursor == "0-0" and time.monotonic() < self._look_at:
            return None
        found: Any = self._in_group(
            lambda client: client.xautoclaim(
                self._stream,
                _GROUP,
                self._name,
                min_idle_time=int(1e3 * self._takeover_s),
                start_id=self._cursor,
                count=1,
            )
        )
        self._cursor = found[0]
        self._look_at = time.monotonic() + self._takeover_s / _LOOKS_A_TAKEOVER
        claim = _claim(found[1])
        if claim is not None:
            logger.info("taken over", extra=claim.work._asdict())
        return claim

    def _next(self) -> Claim | None:
        found: Any = self._in_group(
            lambda client: client.xreadgroup(
                _GROUP, self._name, {self._stream: ">"}, count=1, block=self._wait_ms
            ),
            "wait",
        )
        return _claim(found[0][1]) if found else None

    def _in_group(self, operation: Callable[[redis.Redis], T], name: str = "call") -> T:
        """The operation, in a group that is made (again) where it is missing."""

        def with_group(client: redis.Redis) -> T:
            try:
                return operation(client)
            except redis.ResponseError as error:
                if "NOGROUP" not in str(error):
                    raise
            self._make_group(client)
            return operation(client)

        return self._store.call(with_group, name)

    def _script(self, script: str, *arguments: str) -> None:
        keys = (self._stream, self._known)
        self._store.call(lambda client: client.eval(script, len(keys), *keys, *arguments))

    def _make_group(self, client: redis.Redis) -> None:
        try:
            client.xgroup_create(self._stream, _GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):  # another worker was first
                raise


def _claim(entries: list[tuple[str | None, dict[str, str] | None]]) -> Claim | None:
    """Of the one entry asked for; Redis 6 also hands out entries that were deleted."""
    for entry, fields in entries:
        if entry is not None and fields:
            return Claim(entry, _work(fields))
    return None


def _work(fields: dict[str, str]) -> Work:
    return Work(fields["job"], int(fields["piece"]))
