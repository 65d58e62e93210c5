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
KEY_PATTERN = r"^[\x21-\x7e]{1,255}$"


@dataclass(frozen=True)
class Answer:
    body: str
    replayed: bool = False


class Lease:
    """A key that is taken for the request that now runs; whoever runs it ends the lease."""

    def __init__(self, store: Store | None, name: str, word: str, fingerprint: str) -> None:
        """None: there is no key, or no Redis to keep it."""
        self._store = store
        self._name = name
        self._word = word
        self._fingerprint = fingerprint

    def hold(self, body: str) -> None:
        """Keep the answer for whoever sends the request again."""
        answer = json.dumps({"fingerprint": self._fingerprint, "body": body})
        self._run(_REPLACE_IF_OURS, answer, _KEEP_S, otherwise="an answer is not kept")

    def renew(self) -> None:
        """Say that the request still runs."""
        self._run(_REPLACE_IF_OURS, self._word, _LEASE_S, otherwise="a lease is not renewed")

    def give_back(self) -> None:
        """Let the request be tried again."""
        self._run(_DELETE_IF_OURS, otherwise="a key is held until its lease ends")

    def _run(self, script: str, *arguments: str | int, otherwise: str) -> None:
        if self._store is None:
            return
        words = (self._word, *map(str, arguments))
        try:
            self._store.call(lambda client: client.eval(script, 1, self._name, *words))
        except CoordinationError as error:
            logger.warning("Idempotency-Key: %s: %s", otherwise, error)


class Idempotency:
    """Safe to share between threads."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def once(self, scope: str, key: str | None, fingerprint: str, run: Callable[[], str]) -> Answer:
        """The answer of `run`, or the first answer if this was already done under this key.

        As `begin`, and raises whatever `run` raises.
        """
        begun = self.begin(scope, key, fingerprint)
        if isinstance(begun, Answer):
            return begun
        try:
            body = run()
        except BaseException:
            begun.give_back()
            raise
        begun.hold(body)
        return Answer(body)

    def begin(self, scope: str, key: str | None, fingerprint: str) -> Answer | Lease:
        """The first answer if this was already done under this key, or the key's lease.

        `key` has passed `check_key`, `fingerprint` stands for the request's content. Raises
        IdempotencyInProgressError, IdempotencyKeyReusedError.
        """
        if key is None:
            return Lease(None, "", "", fingerprint)
        digest = hashlib.sha256(f"{scope}\0{key}".encode()).hexdigest()
        name = self._store.key("idempotency", digest)
        word = json.dumps({"fingerprint": fingerprint, "running": secrets.token_hex(8)})
        try:
            first = self._take(name, word)
        except CoordinationError as error:
            logger.warning("a post runs without its Idempotency-Key: %s", error)
            return Lease(None, "", "", fingerprint)
        if first is not None:
            return _replay(first, fingerprint)
        return Lease(self._store, name, word, fingerprint)

    def _take(self, name: str, word: str) -> str | None:
        """What the key holds; None if it is now ours."""
        for _ in range(2):
            if self._store.call(lambda client: client.set(name, word, nx=True, ex=_LEASE_S)):
                return None
            held = self._store.call(lambda client: client.get(name))
            if held == word:  # the SET was sent again after a connection broke, and met itself
                return None
            if held is not None:
                return str(held)
        raise IdempotencyInProgressError("another request with this Idempotency-Key just ended")


def check_key(key: str) -> str:
    """The key. Raises IdempotencyKeyInvalidError."""
    if not re.fullmatch(KEY_PATTERN, key):
        raise IdempotencyKeyInvalidError(
            "an Idempotency-Key is 1 to 255 visible ASCII characters, for instance a UUID"
        )
    return key


def _replay(held: str, fingerprint: str) -> Answer:
    first = json.loads(held)
    if first["fingerprint"] != fingerprint:
        raise IdempotencyKeyReusedError(
            "this Idempotency-Key was used for another request; take a new key for new content"
        )
    if "running" in first:
        raise IdempotencyInProgressError("the first request with this Idempotency-Key still runs")
    return Answer(first["body"], replayed=True)
