"""Hot shops: the candidates for a clip, from memory where the shop fits, else from the index.

A shop of up to `exact_limit` pictures is loaded once and searched exactly for as long as its epoch
stands; any write on any replica renews the epoch, so the next request sees it. Where no epoch can
be had (Redis is down) nothing kept is trusted. The least recently used shops make room.

Knows nothing of clips, models or Redis itself.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

from service.gallery.entries import Candidates, Entries, Vectors
from service.settings import SearchSettings

_LOADERS = 16
_PICTURE_BYTES = 400  # ids, title and the tuple that holds them, roughly


class Index(Protocol):
    """What is asked of `service.gallery.index.VectorIndex`."""

    def load(self, shop_id: str, limit: int) -> Entries: ...

    def search(self, shop_id: str, embedding: Vectors, limit: int) -> Candidates: ...


class Epochs(Protocol):
    """What is asked of `service.coordination.epochs.Epochs`."""

    def read(self, shop_id: str) -> str | None: ...


@dataclass(frozen=True)
class _HotShop:
    epoch: str
    entries: Entries

    @property
    def bytes(self) -> int:
        vectors = self.entries.embeddings.nbytes + self.entries.states.nbytes
        return vectors + _PICTURE_BYTES * len(self.entries.pictures)


class HotShops:
    """Safe to share between threads."""

    def __init__(self, index: Index, epochs: Epochs, settings: SearchSettings) -> None:
        self._index = index
        self._epochs = epochs
        self._settings = settings
        self._hot: OrderedDict[str, _HotShop] = OrderedDict()
        self._large: set[str] = set()
        self._guard = threading.Lock()  # of the two above
        self._loading = [threading.Lock() for _ in range(_LOADERS)]
        self.bytes = 0
        self.hits = 0
        self.misses = 0

    def candidates(self, shop_id: str, embedding: Vectors) -> Candidates:
        """Pictures of the shop that may show the product of a clip's embedding [E].

        Raises IndexUnavailableError.
        """
        entries = None if shop_id in self._large else self._entries(shop_id)
        if entries is None:
            return self._nearest(shop_id, embedding)
        return Candidates(
            entries.pictures, entries.embeddings @ embedding, entries.states, exact=True
        )

    def _entries(self, shop_id: str) -> Entries | None:
        """All pictures of the shop; None if there are too many."""
        entries = self._kept(shop_id, self._epochs.read(shop_id))
        if entries is not None:
            return entries
        # Many clips of a cold shop arrive together: one loads it, the others wait and use it.
        with self._loading[hash(shop_id) % _LOADERS]:
            # Read before the rows are: a write in between renews it, and the next request reloads.
            epoch = self._epochs.read(shop_id)
            entries = self._kept(shop_id, epoch)
            if entries is not None:
                return entries
            return self._load(shop_id, epoch)

    def _load(self, shop_id: str, epoch: str | None) -> Entries | None:
        entries = self._index.load(shop_id, self._settings.exact_limit + 1)
        with self._guard:
            self.misses += 1
            self._forget(shop_id)
            if len(entries.pictures) > self._settings.exact_limit:
                self._large.add(shop_id)
                return None
            if epoch is not None:
                self._keep(shop_id, _HotShop(epoch, entries))
        return entries

    def _kept(self, shop_id: str, epoch: str | None) -> Entries | None:
        with self._guard:
            shop = self._hot.get(shop_id)
            if shop is None or shop.epoch != epoch:
                return None
            self._hot.move_to_end(shop_id)
            self.hits += 1
            return shop.entries

    def _nearest(self, shop_id: str, embedding: Vectors) -> Candidates:
        wanted = self._settings.candidates
        found = self._index.search(shop_id, embedding, wanted)
        if len(found.pictures) < wanted:  # it may have shrunk: the next request looks again
            with self._guard:
                self._large.discard(shop_id)
        return found

    def _keep(self, shop_id: str, shop: _HotShop) -> None:
        if shop.bytes > self._settings.hot_shops_bytes:
            return
        self._hot[shop_id] = shop
        self.bytes += shop.bytes
        while self.bytes > self._settings.hot_shops_bytes:
            self._forget(next(iter(self._hot)))

    def _forget(self, shop_id: str) -> None:
        shop = self._hot.pop(shop_id, None)
        if shop is not None:
            self.bytes -= shop.bytes
