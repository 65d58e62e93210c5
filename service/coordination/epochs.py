"""The epoch of each shop: a random word that changes with every write to the shop.

Who keeps something of a shop keeps the epoch read before it; as long as the word is the same,
nobody on any replica has written since. A random word, not a count: after Redis lost everything, a
count could come back to a value that somebody still holds.
"""

from __future__ import annotations

import logging
import secrets
import threading
from functools import partial

import redis

from service.coordination.store import Store
from service.errors import CoordinationError

logger = logging.getLogger(__name__)


class Epochs:
    """Safe to share between threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._owed: set[str] = set()  # shops written while Redis was away
        self._guard = threading.Lock()

    def read(self, shop_id: str) -> str | None:
        """The shop's epoch; None if it cannot be known now, so that nothing kept can be trusted."""
        try:
            if self._owed:
                with self._guard:
                    self._settle()
            return self._store.call(lambda client: _read(client, _key(shop_id)))
        except CoordinationError:
            return None

    def renew(self, shop_id: str) -> None:
        """Tell every replica that the shop was written; made up for later if Redis is away."""
        with self._guard:
            self._owed.add(shop_id)
            try:
                self._settle()
            except CoordinationError as error:
                logger.warning("an epoch is renewed later: %s", error)

    def _settle(self) -> None:
        """Struck off only once it is renewed, so nobody reads an old epoch of an owed shop."""
        for shop_id in list(self._owed):
            self._store.call(partial(_renew, key=_key(shop_id)))
            self._owed.discard(shop_id)


def _renew(client: redis.Redis, key: str) -> None:
    client.set(key, _word())


def _read(client: redis.Redis, key: str) -> str:
    epoch = client.get(key)
    if epoch is None:
        client.set(key, _word(), nx=True)
        epoch = client.get(key)
    if epoch is None:  # evicted or flushed in between
        raise CoordinationError("Redis does not keep a shop's epoch")
    return str(epoch)


def _key(shop_id: str) -> str:
    return f"lpr:epoch:{shop_id}"


def _word() -> str:
    return secrets.token_hex(8)
