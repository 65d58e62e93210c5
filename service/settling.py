"""Indexes and catalogue brought into agreement: about some products, or about all of them.

The catalogue is right. What it has and an index lacks is encoded again and indexed, what only the
index has is removed; so for the index of every bundle that is kept. Whoever does it does it under
the products' locks and looks at the catalogue again before and after, so it may be done at any
time, by several services at once, again and again.

A marker goes when the index agrees and every replica can know of it: until Redis has been told, it
stays, so that whoever finds it tells.

Three occasions: a write was accepted only (`settle`, for a product's markers), a write died or
failed (`sweep`, every few seconds), or nobody can know (`reconcile`: everything is compared).
"""

from __future__ import annotations

import logging
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple, Protocol

from service.coordination.locks import Locks
from service.encoding import Encoder, row_ids_of
from service.errors import BadInputError, BusyError, InferenceError, LPRError, NotReadyError
from service.gallery.catalogue import Catalogue, ProductRecord, product_folder
from service.gallery.entries import Entries
from service.gallery.pending import Marker, Pending
from service.gallery.rows import Row

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

    def renew(self, shop_id: str) -> bool: ...

    def catch_up(self) -> bool: ...


@dataclass(frozen=True)
class Projection:
    """The catalogue as one bundle sees it: how its rows are made, and where they are."""

    encoder: Encoder
    index: Index


@dataclass(frozen=True)
class Kept:
    """Where everything must be that the catalogue has."""

    projections: list[Projection]
    complete: bool  # False: others are kept too that are not open here

    def is_only(self, projection: Projection) -> bool:
        return self.complete and all(kept is projection for kept in self.projections)


class Projections(Protocol):
    """What is asked of `service.serving.Bundles`."""

    @property
    def active(self) -> Projection: ...

    def kept(self) -> Kept: ...


@dataclass(frozen=True)
class Gallery:
    """What a write of a product has to do with."""

    catalogue: Catalogue
    projections: Projections
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


class Comparison(NamedTuple):
    """Of an index with the catalogue."""

    differing: list[tuple[str, str]]  # products, by shop and id
    agreeing: Counter[str]  # how many products, by shop


Closing = Callable[[Task, bool], list[Marker]]  # of a settled product; whether nobody else writes


class Settler:
    """Safe to share between threads and between services."""

    def __init__(
        self, gallery: Gallery, jobs_are_under_way: Callable[[], bool] = lambda: False
    ) -> None:
        self._catalogue = gallery.catalogue
        self._projections = gallery.projections
        self._epochs = gallery.epochs
        self._pending = gallery.pending
        self._locks = gallery.locks
        self._jobs_are_under_way = jobs_are_under_way
        self._stopping = threading.Event()
        self._untold: set[str] = set()  # markers of which nothing is left to do but to tell of them

    def settle(self, markers: Iterable[Marker]) -> dict[str, LPRError]:
        """Make every index agree about what these are for, and remove them.

        The products that the active bundle cannot index come back by id, with what is wrong with
        them. Raises UnavailableError where it should be tried again.
        """
        products: dict[tuple[str, str], Task] = {}
        shops: dict[str, list[Marker]] = {}
        for marker in markers:
            if marker.product_id is None:
                shops.setdefault(marker.shop_id, []).append(marker)
            else:
                key = (marker.shop_id, marker.product_id)
                products.setdefault(key, Task(*key)).markers.append(marker)
        failed: dict[str, LPRError] = {}
        for batch in self._batches(products.values()):
            failed |= self._settle_batch(batch)
        for shop_id, of_shop in shops.items():
            if self.settle_shop(shop_id) and self._epochs.renew(shop_id):
                self._pending.close(of_shop)
        return failed

    def settle_shop(self, shop_id: str) -> bool:
        """Compare all of a shop; whether that was done in every index that is kept."""
        kept = self._projections.kept()
        for projection in kept.projections:
            differing = self.compare(projection, shop_id).differing
            tasks = [Task(*key) for key in differing]
            for batch in self._batches(tasks):
                self._agree(projection, batch, _none)
        return kept.complete

    def reconcile(self) -> None:
        """Bring the active bundle's index into agreement with the catalogue.

        Raises UnavailableError, of those NotReadyError after `stop`.
        """
        before = [marker for marker in self._pending.all() if self._may_be_settled(marker)]
        active = self._projections.active
        done = self.agree(active, lambda done, of: not self._stopping.is_set())
        if done is None:
            raise NotReadyError("the service stops before its index is complete")
        if self._projections.kept().is_only(active):
            known = {shop_id: self._epochs.renew(shop_id) for shop_id in set(map(_shop_of, before))}
            self._pending.close(marker for marker in before if known[marker.shop_id])

    def agree(
        self,
        projection: Projection,
        goes_on: Callable[[int, int], bool],
        shop_id: str | None = None,
    ) -> list[LPRError] | None:
        """Bring an index, or a shop of it, into agreement; returns what kept products out.

        `goes_on` is told before every batch how many of how many products are done, 0 of 0 before
        they are counted; where it says no, this ends early and returns None. Raises
        UnavailableError.
        """
        hopeless: dict[tuple[str, str], LPRError] = {}
        if not goes_on(0, 0):  # to compare costs as much as a batch, and more
            return None
        differing = self.compare(projection, shop_id).differing
        while differing:
            done = 0
            for batch in self._batches(Task(*key) for key in differing):
                if not goes_on(done, len(differing)):
                    return None
                failed = self._agree(projection, batch, _none)
                hopeless |= {(batch[0].shop_id, name): error for name, error in failed.items()}
                done += len(batch)
                of = {"products": done, "of": len(differing)}
                logger.info("indexed from the catalogue", extra=of)
            # What was written meanwhile, but for what its writer is to finish.
            lasting = self.compare_lasting(projection, shop_id).differing
            differing = [key for key in lasting if key not in hopeless]
        if shop_id is None:
            projection.index.complete()
        return list(hopeless.values())

    def compare(self, projection: Projection, shop_id: str | None = None) -> Comparison:
        """About which products an index and the catalogue differ just now."""
        # The index first: a write goes to the catalogue first, so what is seen in the index and
        # not in the catalogue then is not on its way.
        present: dict[tuple[str, str], set[str]] = {}
        for row in projection.index.scan(shop_id):
            present.setdefault((row.shop_id, row.product_id), set()).add(row.row_id)
        differing = []
        agreeing: Counter[str] = Counter()
        for record in self._catalogue.products(shop_id):
            key = (record.shop_id, record.product_id)
            if present.pop(key, set()) == row_ids_of(record):
                agreeing[record.shop_id] += 1
            else:
                differing.append(key)
        return Comparison(sorted([*differing, *present]), agreeing)

    def compare_lasting(self, projection: Projection, shop_id: str | None = None) -> Comparison:
        """As `compare`, without what a second look no longer finds, for it was written between the
        looks at index and catalogue, and without what a writer is to finish."""
        differing, agreeing = self.compare(projection, shop_id)
        return Comparison([key for key in differing if self._differs(projection, *key)], agreeing)

    def _differs(self, projection: Projection, shop_id: str, product_id: str) -> bool:
        rows = {row.row_id for row in projection.index.rows_of(shop_id, [product_id])}
        record = self._catalogue.find(shop_id, product_id)
        return rows != row_ids_of(record) and not self._pending.of(shop_id, product_id)

    def sweep(self) -> None:
        """Finish what is nobody's work; if another service is not at that already.

        Make up for what could not be told while Redis was away; fill the active bundle's index if
        Milvus has lost it. Raises UnavailableError.
        """
        if self._epochs.catch_up():
            self._untold.clear()
        if self._projections.active.index.is_filling:
            with self._locks.try_hold("fill") as ours:
                if ours:
                    logger.warning("the index is filled from the catalogue")
                    self.reconcile()
        due = [marker for marker in self._pending.due() if marker.key not in self._untold]
        jobs = {marker.key for marker in due if self._pending.waits_for_a_job(marker)}
        if jobs and self._jobs_are_under_way():  # twice encoded is no sooner found
            due = [marker for marker in due if marker.key not in jobs]
        if due:
            # Others each time, so that one that ends the process does not keep them all waiting.
            some = random.sample(due, min(len(due), _SWEEP_MARKERS))
            with self._locks.try_hold("sweep") as ours:
                if ours:
                    failed = self.settle(m for m in some if self._may_be_settled(m))
                    # What a job has given up is not given up here, but costs little meanwhile.
                    self._pending.put_off(m for m in some if m.product_id in failed)

    def settle_durable(self) -> None:
        """Finish every write that the catalogue has, whoever is at work on it.

        Raises UnavailableError.
        """
        self.settle([marker for marker in self._pending.all() if self._may_be_settled(marker)])

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

    def _batches(self, tasks: Iterable[Task]) -> Iterator[list[Task]]:
        """Runs of products of one shop, each of few enough pictures for one write."""
        for _, of_shop in groupby(sorted(tasks, key=_shop_of), key=_shop_of):
            batch: list[Task] = []
            size = 0
            for task in of_shop:
                task.record = self._catalogue.find(task.shop_id, task.product_id)
                more = max(1, task.pictures)  # to remove one is work too
                if batch and size + more > _BATCH_PICTURES:
                    yield batch
                    batch, size = [], 0
                batch.append(task)
                size += more
            yield batch

    def _settle_batch(self, batch: Sequence[Task]) -> dict[str, LPRError]:
        """Of one shop, in every index. What the active bundle cannot index comes back."""
        kept = self._projections.kept()
        failing: set[str] = set()

        def closing(task: Task, alone: bool) -> list[Marker]:
            if not kept.complete or task.product_id in failing:
                return []
            if len(kept.projections) > 1 or not (alone and task.markers):
                return task.markers
            # All writes of the product have ended, and are settled.
            return self._pending.of(task.shop_id, task.product_id)

        failed: list[dict[str, LPRError]] = []
        for place, projection in enumerate(kept.projections, start=1):
            is_last = place == len(kept.projections)
            failed.append(self._agree(projection, batch, closing if is_last else _none))
            failing |= {n for n, error in failed[-1].items() if isinstance(error, InferenceError)}
        return failed[0] if failed else {}

    def _agree(
        self, projection: Projection, batch: Sequence[Task], closing: Closing
    ) -> dict[str, LPRError]:
        """Products of one shop; those that cannot be indexed come back with what is wrong."""
        try:
            return self._agree_together(projection, batch, closing)
        except InferenceError as error:
            if len(batch) == 1:
                logger.error("a product cannot be encoded: %s", error, extra=_names(batch[0]))
                return {batch[0].product_id: error}
        failed: dict[str, LPRError] = {}
        for task in batch:  # one that the model fails at must not keep the others out
            failed |= self._agree(projection, [task], closing)
        return failed

    def _agree_together(
        self, projection: Projection, batch: Sequence[Task], closing: Closing
    ) -> dict[str, LPRError]:
        """A product that is written meanwhile is looked at again.

        `closing` tells which markers go.
        """
        failed: dict[str, LPRError] = {}
        for _ in range(_TRIES):
            changed, damaged = self._try_together(projection, batch, closing)
            failed |= damaged
            if not changed:
                return failed
            batch = changed
            for task in batch:
                failed.pop(task.product_id, None)
                task.record = self._catalogue.find(task.shop_id, task.product_id)
        raise BusyError("products are written all the time; their index is settled later")

    def _try_together(
        self, projection: Projection, batch: Sequence[Task], closing: Closing
    ) -> tuple[list[Task], dict[str, BadInputError]]:
        """Those that were written meanwhile, and those that cannot be indexed."""
        shop_id = batch[0].shop_id
        present: dict[str, set[str]] = {task.product_id: set() for task in batch}
        for row in projection.index.rows_of(shop_id, present):
            present[row.product_id].add(row.row_id)
        missing = [
            task.record
            for task in batch
            if task.record and not row_ids_of(task.record) <= present[task.product_id]
        ]
        entries, damaged = projection.encoder.encode_stored(missing)
        with self._locks.hold(*(task.folder for task in batch)) as alone:
            same = [task for task in batch if self._is_as_read(task)]
            stale = [present[task.product_id] - row_ids_of(task.record) for task in same]
            try:
                if entries is not None:
                    projection.index.upsert(entries.of({task.product_id for task in same}))
                projection.index.delete(sorted(set().union(*stale)))
            finally:
                is_known = self._epochs.renew(shop_id)
            settled = [task for task in same if self._is_as_read(task)]
            surely = alone()
            markers = [marker for task in settled for marker in closing(task, surely)]
            if is_known:
                self._pending.close(markers)
            else:
                self._leave_untold(markers)
        return [task for task in batch if task not in settled], damaged

    def _leave_untold(self, markers: Iterable[Marker]) -> None:
        """To a sweep once Redis is back; until then there is no use in looking at them again."""
        for marker in markers:
            self._untold.add(marker.key)
            self._pending.leave(marker, failed=True)

    def _is_as_read(self, task: Task) -> bool:
        return self._catalogue.find(task.shop_id, task.product_id) == task.record


def _none(task: Task, alone: bool) -> list[Marker]:
    return []


def _shop_of(of_shop: Task | Marker) -> str:
    return of_shop.shop_id


def _names(task: Task) -> dict[str, str]:
    return {"shop_id": task.shop_id, "product_id": task.product_id}
