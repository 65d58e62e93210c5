"""Index and catalogue brought into agreement: about some products, or about all of them.

The catalogue is right. What it has and the index lacks is encoded again and indexed, what only the
index has is removed. Whoever does it does it under the products' locks and looks at the catalogue
again before and after, so it may be done at any time, by several services at once, again and again.

Three occasions: a write was accepted only (`settle`, for a product's markers), a write died or
failed (`sweep`, every few seconds), or nobody can know (`reconcile`: everything is compared).
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from service.coordination.locks import Locks
from service.encoding import Encoder, row_ids_of
from service.errors import BadInputError, BusyError, InferenceError, LPRError, NotReadyError
from service.gallery.catalogue import Catalogue, ProductRecord, product_folder
from service.gallery.entries import Entries
from service.gallery.index import Row
from service.gallery.pending import Marker, Pending

logger = logging.getLogger(__name__)

_SWEEP_S = 2.0  # between looks for writes that nobody finishes
_TRIES = 5
_SWEEP_MARKERS = 256  # in one sweep
_BATCH_PICTURES = 128  # of products that are indexed again, in one write to the index


class Index(Protocol):
    """What is asked of `service.gallery.index.VectorIndex`."""

    @property
    def is_filling(self) -> bool: ...

    def complete(self) -> None: ...

    def upsert(self, entries: Entries) -> None: ...

    def delete(self, row_ids: Iterable[str]) -> None: ...

    def scan(self, shop_id: str | None = None) -> Iterator[Row]: ...

    def rows_of(self, shop_id: str, product_ids: Iterable[str]) -> Iterator[Row]: ...


class Epochs(Protocol):
    """What is asked of `service.coordination.epochs.Epochs`."""

    def renew(self, shop_id: str) -> None: ...


@dataclass(frozen=True)
class Gallery:
    """What a write of a product has to do with."""

    catalogue: Catalogue
    index: Index
    epochs: Epochs
    pending: Pending
    locks: Locks


@dataclass
class Task:
    """A product to look at, with the markers that go when it is settled."""

    shop_id: str
    product_id: str
    markers: list[Marker] = field(default_factory=list)
    record: ProductRecord | None = None

    @property
    def folder(self) -> str:
        return product_folder(self.shop_id, self.product_id)

    @property
    def pictures(self) -> int:
        return len(self.record.images) if self.record else 0


class Settler:
    """Safe to share between threads and between services."""

    def __init__(self, encoder: Encoder, gallery: Gallery) -> None:
        self._encoder = encoder
        self._catalogue = gallery.catalogue
        self._index = gallery.index
        self._epochs = gallery.epochs
        self._pending = gallery.pending
        self._locks = gallery.locks
        self._stopping = threading.Event()

    def settle(self, markers: Iterable[Marker]) -> dict[str, LPRError]:
        """Make the index agree about what these are for, and remove them.

        The products that cannot be indexed come back by id, with what is wrong with them. Raises
        UnavailableError where it should be tried again.
        """
        products: dict[tuple[str, str], Task] = {}
        shops: dict[str, list[Marker]] = {}
        for marker in markers:
            if marker.product_id is None:
                shops.setdefault(marker.shop_id, []).append(marker)
            else:
                key = (marker.shop_id, marker.product_id)
                products.setdefault(key, Task(*key)).markers.append(marker)
        failed = self._settle(products.values())
        for shop_id, of_shop in shops.items():
            failed |= self.settle_shop(shop_id)
            self._pending.close(of_shop)
        return failed

    def settle_shop(self, shop_id: str) -> dict[str, LPRError]:
        """Compare all of a shop. As `settle`."""
        return self._settle(Task(*key) for key in self.differences(shop_id))

    def reconcile(self) -> None:
        """Bring the whole index into agreement with the catalogue. Raises UnavailableError."""
        before = [marker for marker in self._pending.all() if self._may_be_settled(marker)]
        self._settle((Task(*key) for key in self.differences()), stoppable=True)
        self._index.complete()
        self._pending.close(before)

    def differences(self, shop_id: str | None = None) -> list[tuple[str, str]]:
        """Products, by shop and id, about which index and catalogue differ just now."""
        # The index first: a write goes to the catalogue first, so what is seen in the index and
        # not in the catalogue then is not on its way.
        present: dict[tuple[str, str], set[str]] = {}
        for row in self._index.scan(shop_id):
            present.setdefault((row.shop_id, row.product_id), set()).add(row.row_id)
        differing = []
        for record in self._catalogue.products(shop_id):
            key = (record.shop_id, record.product_id)
            if present.pop(key, set()) != row_ids_of(record):
                differing.append(key)
        return sorted([*differing, *present])

    def sweep(self) -> None:
        """Finish what is nobody's work; if another service is not at that already.

        Fill an index that Milvus has lost. Raises UnavailableError.
        """
        if self._index.is_filling:
            with self._locks.try_hold("fill") as ours:
                if ours:
                    logger.warning("the index is filled from the catalogue")
                    self.reconcile()
        due = self._pending.due()
        if due:
            # Others each time, so that one that ends the process does not keep them all waiting.
            some = random.sample(due, min(len(due), _SWEEP_MARKERS))
            with self._locks.try_hold("sweep") as ours:
                if ours:
                    self.settle(marker for marker in some if self._may_be_settled(marker))

    def keep_swept(self) -> None:
        """Sweep every few seconds; returns after `stop`."""
        while not self._stopping.wait(_SWEEP_S):
            try:
                self.sweep()
            except LPRError as error:
                logger.warning("writes that were not finished are finished later: %s", error)

    def stop(self) -> None:
        """Let `keep_swept` return, and a long `reconcile` end early, with NotReadyError."""
        self._stopping.set()

    def is_durable(self, marker: Marker) -> bool:
        """Whether its write has done to the catalogue what it was to do."""
        if marker.product_id is None:
            return False
        record = self._catalogue.find(marker.shop_id, marker.product_id)
        if record is None:
            return marker.updated_at is None and not self._catalogue.holds(
                marker.shop_id, marker.product_id
            )
        return record.updated_at == marker.updated_at

    def _may_be_settled(self, marker: Marker) -> bool:
        return self._pending.is_abandoned(marker) or self.is_durable(marker)

    def _settle(self, tasks: Iterable[Task], *, stoppable: bool = False) -> dict[str, LPRError]:
        failed: dict[str, LPRError] = {}
        shops: dict[str, list[Task]] = {}
        for task in tasks:
            shops.setdefault(task.shop_id, []).append(task)
        for of_shop in shops.values():
            for batch in self._batches(of_shop):
                if stoppable and self._stopping.is_set():
                    raise NotReadyError("the service stops before its index is complete")
                failed |= self._settle_batch(batch)
                logger.info("settled", extra={"shop_id": batch[0].shop_id, "products": len(batch)})
        return failed

    def _batches(self, tasks: Iterable[Task]) -> Iterator[list[Task]]:
        """Runs of products, each of few enough pictures for one write."""
        batch: list[Task] = []
        for task in tasks:
            task.record = self._catalogue.find(task.shop_id, task.product_id)
            if batch and sum(t.pictures for t in [*batch, task]) > _BATCH_PICTURES:
                yield batch
                batch = []
            batch.append(task)
        if batch:
            yield batch

    def _settle_batch(self, batch: Sequence[Task]) -> dict[str, LPRError]:
        try:
            return self._settle_together(batch)
        except InferenceError as error:
            if len(batch) == 1:
                logger.error("a product cannot be encoded: %s", error, extra=_names(batch[0]))
                return {batch[0].product_id: error}
        failed: dict[str, LPRError] = {}
        for task in batch:  # one that the model fails at must not keep the others out
            failed |= self._settle_batch([task])
        return failed

    def _settle_together(self, batch: Sequence[Task]) -> dict[str, LPRError]:
        """Of one shop. A product that is written meanwhile is looked at again."""
        failed: dict[str, LPRError] = {}
        for _ in range(_TRIES):
            changed, damaged = self._try_together(batch)
            failed |= damaged
            if not changed:
                return failed
            batch = changed
            for task in batch:
                failed.pop(task.product_id, None)
                task.record = self._catalogue.find(task.shop_id, task.product_id)
        raise BusyError("products are written all the time; their index is settled later")

    def _try_together(self, batch: Sequence[Task]) -> tuple[list[Task], dict[str, BadInputError]]:
        """Those that were written meanwhile, and those that cannot be indexed."""
        shop_id = batch[0].shop_id
        present: dict[str, set[str]] = {task.product_id: set() for task in batch}
        for row in self._index.rows_of(shop_id, present):
            present[row.product_id].add(row.row_id)
        missing = [
            task.record
            for task in batch
            if task.record and not row_ids_of(task.record) <= present[task.product_id]
        ]
        entries, damaged = self._encoder.encode_stored(missing)
        with self._locks.hold(*(task.folder for task in batch)) as alone:
            same = [task for task in batch if self._is_as_read(task)]
            stale = [present[task.product_id] - row_ids_of(task.record) for task in same]
            try:
                if entries is not None:
                    self._index.upsert(entries.of({task.product_id for task in same}))
                self._index.delete(sorted(set().union(*stale)))
            finally:
                self._epochs.renew(shop_id)
            settled = [task for task in same if self._is_as_read(task)]
            self._pending.close(marker for task in settled for marker in self._done(task, alone))
        return [task for task in batch if task not in settled], damaged

    def _done(self, task: Task, alone: bool) -> list[Marker]:
        """Who is alone knows that all writes of the product have ended, and are settled."""
        if alone and task.markers:
            return self._pending.of(task.shop_id, task.product_id)
        return task.markers

    def _is_as_read(self, task: Task) -> bool:
        return self._catalogue.find(task.shop_id, task.product_id) == task.record


def _names(task: Task) -> dict[str, str]:
    return {"shop_id": task.shop_id, "product_id": task.product_id}
