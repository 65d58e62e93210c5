"""The one door to Redis: every call is short, and a silent Redis is left alone for a moment.

Redis holds hints only, and losing it loses nothing: whoever calls decides what to do without it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from service.errors import CoordinationError
from service.telemetry import Telemetry

_REST_S = 1.0
_TRIAL_S = 5.0
_UP = "lpr:up"
_UP_S = 60

T = TypeVar("T")


class Store:
    """A Redis that may be away. Safe to share between threads."""

    def __init__(self, client: redis.Redis, telemetry: Telemetry) -> None:
        self._client = client
        self._telemetry = telemetry
        self._rest_until = 0.0

    @classmethod
    def at(cls, url: str, timeout_s: float, telemetry: Telemetry) -> Store:
        """`url` as redis-py takes it: redis://, rediss:// or unix://."""
        return cls(
            redis.Redis.from_url(
                url,
                socket_timeout=timeout_s,
                socket_connect_timeout=timeout_s,
                decode_responses=True,
                # Once more, for a connection that a restart of the server has cut.
                retry=Retry(NoBackoff(), 1),
            ),
            telemetry,
        )

    def call(self, operation: Callable[[redis.Redis], T], name: str = "call") -> T:
        """Do something with Redis. Raises CoordinationError, at once if it was silent just now.

        `name` tells the metrics of calls that take their time on purpose.
        """
        if time.monotonic() < self._rest_until:
            raise CoordinationError("Redis did not answer a moment ago")
        if self._rest_until:  # one tries for all, and the others go on without it
            self._rest_until = time.monotonic() + _TRIAL_S
        try:
            with self._telemetry.call("redis", name):
                answer = operation(self._client)
        except (RedisError, OSError) as error:
            self._rest_until = time.monotonic() + _REST_S
            raise CoordinationError(f"Redis does not answer: {error}") from error
        except CoordinationError:  # the operation's own: Redis has answered
            self._rest_until = 0.0
            raise
        self._rest_until = 0.0
        return answer

    def is_up(self) -> bool:
        """Whether it takes writes: one whose memory is full still answers a ping."""
        try:
            return bool(self.call(lambda client: client.set(_UP, "1", ex=_UP_S)))
        except CoordinationError:
            return False

    def close(self) -> None:
        self._client.close()
