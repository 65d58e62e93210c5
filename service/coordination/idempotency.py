"""Idempotency-Key: a post sent again has one effect, and gets its first answer again.

A key belongs to a shop. It is taken while the post runs (a second one is told to wait) and then
holds the answer for a day; a post that failed gives its key back, so that it can be tried again.
Without Redis every post simply runs: posts of products are replacements, so that loses no data.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from service.coordination.store import Store
from service.errors import (
    CoordinationError,
    IdempotencyInProgressError,
    IdempotencyKeyInvalidError,
    IdempotencyKeyReusedError,
)

logger = logging.getLogger(__name__)

_LEASE_S = 60  # a post that takes longer, or whose service died, no longer holds its key
_KEEP_S = 86_400
# A lease that ended meanwhile may be another's now, or hold its answer: that stands.
_IF_OURS = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call({}) end"
_REPLACE_IF_OURS = _IF_OURS.format("'SET', KEYS[1], ARGV[2], 'EX', ARGV[3]")
_DELETE_IF_OURS = _IF_OURS.format("'DEL', KEYS[1]")
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@dataclass(frozen=True)
class Answer:
    body: str
    replayed: bool = False


class Idempotency:
    """Safe to share between threads."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def once(self, scope: str, key: str | None, fingerprint: str, run: Callable[[], str]) -> Answer:
        """The answer of `run`, or the first answer if this was already done under this key.

        `key` has passed `check_key`, `fingerprint` stands for the request's content. Raises
        IdempotencyInProgressError, IdempotencyKeyReusedError, and whatever `run` raises.
        """
        if key is None:
            return Answer(run())
        name = "lpr:idempotency:" + hashlib.sha256(f"{scope}\0{key}".encode()).hexdigest()
        lease = json.dumps({"fingerprint": fingerprint, "running": secrets.token_hex(8)})
        try:
            first = self._take(name, lease)
        except CoordinationError as error:
            logger.warning("a post runs without its Idempotency-Key: %s", error)
            return Answer(run())
        if first is not None:
            return _replay(first, fingerprint)
        try:
            body = run()
        except BaseException:
            self._give_back(name, lease)
            raise
        self._hold(name, lease, json.dumps({"fingerprint": fingerprint, "body": body}))
        return Answer(body)

    def _take(self, name: str, lease: str) -> str | None:
        """What the key holds; None if it is now ours."""
        for _ in range(2):
            if self._store.call(lambda client: client.set(name, lease, nx=True, ex=_LEASE_S)):
                return None
            held = self._store.call(lambda client: client.get(name))
            if held == lease:  # the SET was sent again after a connection broke, and met itself
                return None
            if held is not None:
                return str(held)
        raise IdempotencyInProgressError("another request with this Idempotency-Key just ended")

    def _hold(self, name: str, lease: str, answer: str) -> None:
        try:
            self._store.call(
                lambda client: client.eval(_REPLACE_IF_OURS, 1, name, lease, answer, str(_KEEP_S))
            )
        except CoordinationError as error:
            logger.warning("an answer is not kept for its Idempotency-Key: %s", error)

    def _give_back(self, name: str, lease: str) -> None:
        try:
            self._store.call(lambda client: client.eval(_DELETE_IF_OURS, 1, name, lease))
        except CoordinationError as error:
            logger.warning("an Idempotency-Key is held until its lease ends: %s", error)


def check_key(key: str) -> None:
    """Raises IdempotencyKeyInvalidError."""
    if not _KEY.fullmatch(key):
        raise IdempotencyKeyInvalidError(
            "an Idempotency-Key is 1 to 255 visible ASCII characters, for instance a UUID"
        )


def _replay(held: str, fingerprint: str) -> Answer:
    first = json.loads(held)
    if first["fingerprint"] != fingerprint:
        raise IdempotencyKeyReusedError(
            "this Idempotency-Key was used for another request; take a new key for new content"
        )
    if "running" in first:
        raise IdempotencyInProgressError("the first request with this Idempotency-Key still runs")
    return Answer(first["body"], replayed=True)
