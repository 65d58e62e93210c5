"""Hot shops: the candidates for a clip, from memory where the shop fits, else from the index.

What is in memory is trusted for as long as the shop's epoch stands: any write on any replica renews
it, so the next request sees it. Where no epoch can be had (Redis is down) nothing kept is trusted.
The least recently used shops make room.

- A shop of up to `exact_limit` pictures is loaded when a clip asks for it; all are candidates.
- A larger one takes long to load, so the index answers while it is loaded in the background.
- One beyond `hot_limit`, or beyond the memory, is left to the index.

Knows nothing of clips, models or Redis itself.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.coordination.epochs import written_at
from service.errors import IndexUnavailableError
from service.gallery.entries import Candidates, Entries, Vectors
from service.settings import SearchSettings

logger = logging.getLogger(__name__)

_LOADERS = 16
_HUGE_S = 600.0  # that a shop too large for the memory is believed to be, whatever is written
_FAILED_S = 30.0  # that a large shop is left to the index after it could not be loaded
_PICTURE_BYTES = 400  # ids, title and the tuple that holds them, roughly


class Index(Protocol):
    """What is asked of `service.gallery.index.VectorIndex`."""

    def load(self, shop_id: str, limit: int, since: int | None) -> Entries: ...

    def search(
        self, shop_id: str, embedding: Vectors, limit: int, since: int | None
    ) -> Candidates: ...


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


@dataclass(frozen=True)
class _Huge:
    epoch: str | None  # when it was found to be; None where it could not be looked at
    until: float  # on the monotonic clock


class HotShops:
    """Safe to share between threads."""

    def __init__(self, index: Index, epochs: Epochs, settings: SearchSettings) -> None:
        self._index = index
        self._epochs = epochs
        self._settings = settings
        self._hot: OrderedDict[str, _HotShop] = OrderedDict()
        self._large: set[str] = set()  # more than `exact_limit` pictures
        self._huge: dict[str, _Huge] = {}  # of those: not for this memory
        self._coming: set[str] = set()  # of those: being loaded in the background
        self._guard = threading.Lock()  # of the four above
        self._loading = [threading.Lock() for _ in range(_LOADERS)]
        self._background = ThreadPoolExecutor(1, thread_name_prefix="lpr-shops")
        self.bytes = 0
        self.hits = 0
        self.misses = 0

    def candidates(self, shop_id: str, embedding: Vectors) -> Candidates:
        """Pictures of the shop that may show the product of a clip's embedding [E].

        Raises IndexUnavailableError.
        """
        entries = self._entries(shop_id)
        if entries is None:
            return self._ask_index(shop_id, embedding)
        cosines = entries.embeddings @ embedding
        if len(cosines) <= self._settings.exact_limit:
            return Candidates(entries.pictures, cosines, entries.states, exact=True)
        best = nearest(cosines, self._settings.candidates)
        pictures = tuple(entries.pictures[row] for row in best)
        return Candidates(pictures, cosines[best], entries.states[best], exact=False)

    def is_hot(self, shop_id: str) -> bool:
        """Whether pictures of the shop are kept that are all it has just now."""
        epoch = self._epochs.read(shop_id)
        with self._guard:
            shop = self._hot.get(shop_id)
            return shop is not None and shop.epoch == epoch and bool(shop.entries.pictures)

    def clear(self) -> None:
        """Give the memory back; whoever asks next is served as from a cold start."""
        with self._guard:
            self._hot.clear()
            self.bytes = 0

    def close(self) -> None:
        self._background.shutdown(wait=True, cancel_futures=True)

    def _entries(self, shop_id: str) -> Entries | None:
        """The shop's pictures; None if the index is to be asked."""
        entries = self._kept(shop_id, self._epochs.read(shop_id))
        if entries is not None or shop_id in self._large:
            return entries
        # Many clips of a cold shop arrive together: one loads it, the others wait and use it.
        with self._loading[hash(shop_id) % _LOADERS]:
            # Read before the rows are: a write in between renews it, and the next request reloads.
            epoch = self._epochs.read(shop_id)
            return self._kept(shop_id, epoch) or self._load_small(shop_id, epoch)

    def _load_small(self, shop_id: str, epoch: str | None) -> Entries | None:
        entries = self._index.load(shop_id, self._settings.exact_limit + 1, written_at(epoch))
        with self._guard:
            self.misses += 1
            self._forget(shop_id)
            if len(entries.pictures) > self._settings.exact_limit:
                self._large.add(shop_id)
                return None
            if epoch is not None:
                self._keep(shop_id, _HotShop(epoch, entries))
        return entries

    def _ask_index(self, shop_id: str, embedding: Vectors) -> Candidates:
        wanted = self._settings.candidates
        epoch = self._epochs.read(shop_id)
        found = self._index.search(shop_id, embedding, wanted, written_at(epoch))
        with self._guard:
            if len(found.pictures) < wanted:  # it may have shrunk: the next request looks again
                self._large.discard(shop_id)
                self._huge.pop(shop_id, None)
            elif shop_id not in self._coming and not self._is_huge(shop_id, epoch):
                self._coming.add(shop_id)
                self._background.submit(self._load_large, shop_id)
        return found

    def _load_large(self, shop_id: str) -> None:
        try:
            epoch = self._epochs.read(shop_id)
            if epoch is None:
                return
            entries = self._index.load(shop_id, self._settings.hot_limit + 1, written_at(epoch))
            with self._guard:
                self.misses += 1
                self._forget(shop_id)
                fits = len(entries.pictures) <= self._settings.hot_limit
                if not (fits and self._keep(shop_id, _HotShop(epoch, entries))):
                    self._huge[shop_id] = _Huge(epoch, time.monotonic() + _HUGE_S)
        except IndexUnavailableError as error:
            logger.warning("a large shop could not be loaded: %s", error)
            with self._guard:
                self._huge[shop_id] = _Huge(None, time.monotonic() + _FAILED_S)
        finally:
            with self._guard:
                self._coming.discard(shop_id)

    def _is_huge(self, shop_id: str, epoch: str | None) -> bool:
        """As far as is known: it may have shrunk since, which is looked at now and then."""
        found = self._huge.get(shop_id)
        if found is None:
            return False
        return time.monotonic() < found.until or (epoch is not None and found.epoch == epoch)

    def _kept(self, shop_id: str, epoch: str | None) -> Entries | None:
        with self._guard:
            shop = self._hot.get(shop_id)
            if shop is None or shop.epoch != epoch:
                return None
            self._hot.move_to_end(shop_id)
            self.hits += 1
            return shop.entries

    def _keep(self, shop_id: str, shop: _HotShop) -> bool:
        """Whether there is memory for it at all."""
        if shop.bytes > self._settings.hot_shops_bytes:
            return False
        self._hot[shop_id] = shop
        self.bytes += shop.bytes
        while self.bytes > self._settings.hot_shops_bytes:
            self._forget(next(iter(self._hot)))
        return True

    def _forget(self, shop_id: str) -> None:
        shop = self._hot.pop(shop_id, None)
        if shop is not None:
            self.bytes -= shop.bytes


def nearest(cosines: Vectors, count: int) -> NDArray[np.intp]:
    """Rows of the `count` highest of cosines [N], best first."""
    if count < len(cosines):
        rows = np.argpartition(-cosines, count)[:count]
    else:
        rows = np.arange(len(cosines))
    return rows[np.argsort(-cosines[rows], kind="stable")]
