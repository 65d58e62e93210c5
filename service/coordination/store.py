"""The one door to Redis: every call is short, and a silent Redis is left alone for a moment.

Redis holds hints only, and losing it loses nothing: whoever calls decides what to do without it.
Its keys name the catalogue that they are about, so that several may share one Redis.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from service.errors import CoordinationError
from service.telemetry import Telemetry

_REST_S = 1.0
_TRIAL_S = 5.0
_UP_S = 60
_RUN_ID = re.compile(r"run_id:(\w+)")

T = TypeVar("T")


class Store:
    """A Redis that may be away. Safe to share between threads."""

    def __init__(
        self,
        client: redis.Redis,
        telemetry: Telemetry,
        servers: _Servers | None = None,
        owner: str | None = None,
    ) -> None:
        self._client = client
        self._telemetry = telemetry
        self._servers = servers or _Servers()
        self._owner = owner
        self._rest_until = 0.0

    @classmethod
    def at(cls, url: str, timeout_s: float, telemetry: Telemetry) -> Store:
        """`url` as redis-py takes it: redis://, rediss:// or unix://."""
        servers = _Servers()
        client = redis.Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            decode_responses=True,
            # Once more, for a connection that a restart of the server has cut.
            retry=Retry(NoBackoff(), 1),
            redis_connect_func=servers.meet,
        )
        return cls(client, telemetry, servers)

    def owned_by(self, catalogue_id: str) -> Store:
        """The same Redis, with keys that are this catalogue's own."""
        return Store(self._client, self._telemetry, self._servers, catalogue_id)

    def key(self, *words: str) -> str:
        """The full name of one of this store's keys."""
        return ":".join(("lpr", *((self._owner,) if self._owner else ()), *words))

    @property
    def server(self) -> str:
        """Which one was met last: another after it was restarted or its replica took over, which
        may both have forgotten the last moment."""
        return self._servers.last

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
            return bool(self.call(lambda client: client.set(self.key("up"), "1", ex=_UP_S)))
        except CoordinationError:
            return False

    def close(self) -> None:
        self._client.close()


class _Servers:
    """Those that answered at the other end."""

    def __init__(self) -> None:
        self.last = ""

    def meet(self, connection: Any) -> None:
        """Of each new connection, before anything is asked over it."""
        connection.on_connect()
        with suppress(ResponseError):  # a user that may not ask
            connection.send_command("INFO", "server")
            found = _RUN_ID.search(str(connection.read_response()))
            self.last = found[1] if found else ""
