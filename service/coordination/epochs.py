"""The epoch of each shop: a word that changes with every write to the shop.

Who keeps something of a shop keeps the epoch read before it; as long as the word is the same,
nobody on any replica has written since. A random word, not a count: after Redis lost everything, a
count could come back to a value that somebody still holds. And a word of this server: one that was
restarted, or takes over, may have forgotten the last renewals.

A write while Redis is away is made known when Redis is back: by its writer, who remembers the shop,
and by whoever finds the marker that the writer leaves for as long (`service.gallery.pending`), for
a writer may be killed.

Behind a colon the word also tells how late by the index's clock the shop was written, so that who
reads the index can ask for that much and need not wait for more. Nothing there: it is not known.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable
from functools import partial

import redis

from service.coordination.store import Store
from service.errors import CoordinationError

logger = logging.getLogger(__name__)

# Another replica may have written later and renewed earlier: the later time stays. As words of the
# same length, for Lua's numbers are too short for them.
_RENEW = """
local before = string.match(redis.call('GET', KEYS[1]) or '', ':(%d+)$') or ''
local after = ARGV[2]
if #before > #after or (#before == #after and before > after) then after = before end
return redis.call('SET', KEYS[1], ARGV[1] .. ':' .. after)
"""


class Epochs:
    """Safe to share between threads."""

    def __init__(
        self, store: Store, latest_write: Callable[[], int | None], *, alone: bool = False
    ) -> None:
        """`latest_write`: when this process last wrote to the index, by its clock; None: never.
        `alone`: no other process keeps anything of a shop."""
        self._store = store
        self._latest_write = latest_write
        self._alone = alone
        self._owed: set[str] = set()  # shops written while Redis was away
        self._guard = threading.Lock()

    def read(self, shop_id: str) -> str | None:
        """The shop's epoch; None if it cannot be known now, so that nothing kept can be trusted."""
        if not self.catch_up():
            return None
        try:
            word = self._store.call(lambda client: _read(client, self._key(shop_id)))
        except CoordinationError:
            return None
        return f"{self._store.server}.{word}"

    def renew(self, shop_id: str) -> bool:
        """Tell every replica that the shop was written; whether all know that there are.

        Where Redis is away, this process makes up for it later, unless it ends before.
        """
        with self._guard:
            self._owed.add(shop_id)
        is_known = self.catch_up()
        if not is_known:
            logger.warning("an epoch is renewed later: Redis is away")
        return is_known or self._alone

    def catch_up(self) -> bool:
        """Renew what could not be renewed when it was written; whether nothing is owed now."""
        if not self._owed:
            return True
        with self._guard:
            try:
                self._settle()
            except CoordinationError:
                return False
        return True

    def _settle(self) -> None:
        """Struck off only once it is renewed, so nobody reads an old epoch of an owed shop."""
        for shop_id in list(self._owed):
            renew = partial(_renew, key=self._key(shop_id), written=self._latest_write())
            self._store.call(renew)
            self._owed.discard(shop_id)

    def _key(self, shop_id: str) -> str:
        return self._store.key("epoch", shop_id)


def written_at(epoch: str | None) -> int | None:
    """When the shop was last written, by the index's clock; None where that is not known."""
    _, _, written = (epoch or "").partition(":")
    return int(written) if written else None


def _renew(client: redis.Redis, key: str, written: int | None) -> None:
    client.eval(_RENEW, 1, key, _word(), str(written or ""))


def _read(client: redis.Redis, key: str) -> str:
    epoch = client.get(key)
    if epoch is None:
        client.set(key, f"{_word()}:", nx=True)
        epoch = client.get(key)
    if epoch is None:  # evicted or flushed in between
        raise CoordinationError("Redis does not keep a shop's epoch")
    return str(epoch)


def _word() -> str:
    return secrets.token_hex(8)
