"""The story of one product: decoded, encoded, made durable, made searchable, made known.

A post is answered only after the catalogue holds the product durably and the index finds it; or,
where that was asked for or the index is away, after the first of the two. The catalogue goes first
on the way in and on the way out, behind a durable marker of the write (`service.gallery.pending`),
so whatever a crash leaves behind, `service.settling` can finish. That also brings a write into the
indexes of bundles that are kept beside the active one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from service import deadlines
from service.encoding import Encoder, Pixels, row_ids_of
from service.errors import (
    BadInputError,
    LPRError,
    NotIndexedYetError,
    ProductNotFoundError,
    ShopNotFoundError,
    UnavailableError,
)
from service.gallery.catalogue import (
    Alone,
    PictureRecord,
    ProductRecord,
    image_id,
    product_folder,
)
from service.gallery.entries import Entries
from service.gallery.pending import Marker
from service.gallery.rows import row_id
from service.settling import Gallery, Projection, Settler

logger = logging.getLogger(__name__)

_REST = 128  # of other writes that a write finishes; a sweep does more


@dataclass(frozen=True)
class NewProduct:
    shop_id: str
    product_id: str
    title: str | None
    metadata: dict[str, Any] | None
    images: tuple[bytes, ...]


@dataclass
class _Write:
    marker: Marker
    others: list[Marker]  # of other writes of the same, that may not be in the index
    is_done: bool = False  # in every index that is kept
    is_known: bool = False  # to every replica, or will be when it looks


class Indexer:
    """Safe to share between threads; writes of one product are ordered, by its lock."""

    def __init__(self, gallery: Gallery, settler: Settler) -> None:
        self._catalogue = gallery.catalogue
        self._projections = gallery.projections
        self._epochs = gallery.epochs
        self._pending = gallery.pending
        self._locks = gallery.locks
        self._settler = settler

    def put(self, product: NewProduct) -> ProductRecord:
        """Store or replace a product; durable and searchable when this returns.

        Raises ImageError that points at the picture, StorageFullError, UnavailableError: of the
        last, NotIndexedYetError says that it is durable, and searchable later.
        """
        active = self._projections.active
        record, pictures, pixels = _read(product, active.encoder)
        entries = active.encoder.encode([record], pixels)
        shop_id, product_id = record.shop_id, record.product_id
        with (
            self._held(shop_id, product_id) as alone,
            self._marked(shop_id, product_id, record.updated_at, alone) as write,
        ):
            trusted = alone() and not write.others
            before = self._rows(shop_id, product_id) if trusted else None
            self._catalogue.put(record, pictures, alone=alone)
            self._feed(active, write.marker, before, entries)
            write.is_done = self._projections.kept().is_only(active)
        self._settle_rest(write)
        return record

    def accept(self, product: NewProduct) -> ProductRecord:
        """Store or replace a product; durable when this returns, searchable after `finish`.

        Raises ImageError that points at the picture, StorageFullError, UnavailableError.
        """
        encoder = self._projections.active.encoder
        record, pictures, pixels = _read(product, encoder)
        with self._held(record.shop_id, record.product_id) as alone:
            marker = self._pending.open(
                record.shop_id, record.product_id, record.updated_at, of_job=True
            )
            try:
                self._catalogue.put(record, pictures, alone=alone)
            except BaseException:
                self._pending.leave(marker, failed=True)
                raise
            self._pending.leave(marker, failed=False)
        encoder.keep(record, pixels)
        return record

    def finish(self, shop_id: str, product_ids: Sequence[str]) -> dict[str, LPRError]:
        """Make accepted products searchable; of those that are not pending, nothing is done.

        The products that cannot be indexed for good come back by id, with what is wrong. Raises
        UnavailableError where it should be tried again.
        """
        markers = [
            marker
            for product_id in product_ids
            for marker in self._pending.of(shop_id, product_id)
            if self._settler.is_durable(marker)
        ]
        return self._settler.settle(markers)

    def is_pending(self, shop_id: str, product_id: str) -> bool:
        """Whether the index may still lack what the catalogue has of the product."""
        return bool(self._pending.of(shop_id, product_id))

    def backlog(self) -> int:
        """How many writes are not in the index yet: as of a few seconds ago at worst."""
        return self._pending.count

    def lag_s(self) -> float:
        """How long the oldest of them has been known here."""
        return self._pending.lag_s

    def delete(self, shop_id: str, product_id: str) -> None:
        """Remove a product; found by nobody when this returns.

        Raises ShopNotFoundError, ProductNotFoundError, UnavailableError.
        """
        active = self._projections.active
        with self._held(shop_id, product_id) as alone:
            was_there = self._catalogue.holds(shop_id, product_id)
            if was_there:
                with self._marked(shop_id, product_id, None, alone) as write:
                    trusted = alone() and not write.others
                    before = self._rows(shop_id, product_id) if trusted else None
                    self._catalogue.delete(shop_id, product_id, alone=alone)
                    self._feed(active, write.marker, before, None)
                    write.is_done = self._projections.kept().is_only(active)
        if was_there:
            self._settle_rest(write)
        else:
            self.finish(shop_id, [product_id])  # an earlier delete may have failed half way
            self._catalogue.check_shop(shop_id)
            raise ProductNotFoundError(f"shop {shop_id!r} has no product {product_id!r}")

    def delete_shop(self, shop_id: str) -> None:
        """Remove a shop and all its products. Raises ShopNotFoundError, UnavailableError."""
        if not self._catalogue.has_shop(shop_id):
            self._settler.settle(self._pending.of(shop_id, None))
            raise ShopNotFoundError(shop_id)
        with self._marked(shop_id, None, None, alone=lambda: False) as write:
            self._catalogue.delete_shop(shop_id, self._locks.hold)
            write.is_done = self._settler.settle_shop(shop_id)

    @contextmanager
    def _held(self, shop_id: str, product_id: str) -> Iterator[Alone]:
        """Alone with a product, where others can be told; nothing is begun beyond the deadline."""
        with self._locks.hold(product_folder(shop_id, product_id)) as alone:
            deadlines.check()
            yield alone

    @contextmanager
    def _marked(
        self, shop_id: str, product_id: str | None, updated_at: datetime | None, alone: Alone
    ) -> Iterator[_Write]:
        """A write behind its marker; whatever it did to the index, every replica looks at it anew.

        Who is `alone` knows that other writes of the same have ended, and has settled them as well.
        While Redis is away no replica can be told: then the marker stays, for a sweep to tell.
        """
        others = self._pending.of(shop_id, product_id)
        write = _Write(self._pending.open(shop_id, product_id, updated_at), others)
        try:
            try:
                yield write
            except NotIndexedYetError:  # copies of the index are right until who settles it tells
                raise
            except BaseException:
                self._epochs.renew(shop_id)
                raise
            write.is_known = self._epochs.renew(shop_id)
            overtaken = product_id is not None and not self._settler.is_durable(write.marker)
            if overtaken or not write.is_known:
                self._pending.leave(write.marker, failed=True)
            elif write.is_done:
                self._pending.close([write.marker, *others] if alone() else [write.marker])
            else:
                self._pending.leave(write.marker, failed=False)
        except BaseException:
            self._pending.leave(write.marker, failed=True)
            raise

    def _feed(
        self,
        projection: Projection,
        marker: Marker,
        before: set[str] | None,
        entries: Entries | None,
    ) -> None:
        """Make these the product's only rows. `before`: those it had; None: the index tells."""
        index, shop_id = projection.index, marker.shop_id
        wanted = {row_id(shop_id, picture) for picture in entries.pictures} if entries else set()
        try:
            if entries is not None:
                index.upsert(entries)
            if before is None:
                before = {row.row_id for row in index.rows_of(shop_id, [str(marker.product_id)])}
            index.delete(sorted(before - wanted))
        except UnavailableError as error:
            raise NotIndexedYetError(f"{error.detail}; the write is durable") from error

    def _settle_rest(self, write: _Write) -> None:
        """Bring the write into other bundles' indexes; and what failed half way in the shop before.

        The product is found already: what cannot be done now is done later.
        """
        # While nobody can be told, they would all be left again.
        rest = self._pending.failed(write.marker.shop_id)[:_REST] if write.is_known else []
        if not write.is_done and write.marker not in rest:
            rest.append(write.marker)
        if rest:
            try:
                self._settler.settle(rest)
            except UnavailableError as error:
                logger.warning("writes that failed half way are finished later: %s", error)
                if not write.is_done:
                    self._pending.leave(write.marker, failed=True)

    def _rows(self, shop_id: str, product_id: str) -> set[str] | None:
        """Keys of the product's rows, as its record says; None where that is damaged."""
        record = self._catalogue.find(shop_id, product_id)
        if record is None and self._catalogue.holds(shop_id, product_id):
            return None
        return row_ids_of(record)


def _read(
    product: NewProduct, encoder: Encoder
) -> tuple[ProductRecord, dict[str, bytes], list[Pixels]]:
    """The record to be, its pictures by image id, and their pixels in the same order."""
    records: dict[str, PictureRecord] = {}
    pictures: dict[str, bytes] = {}
    pixels: list[Pixels] = []
    for place, data in enumerate(product.images):
        deadlines.check()
        name = image_id(data)
        if name in pictures:  # the same picture twice says nothing new
            continue
        try:
            fitted, media_type = encoder.decode(data)
        except BadInputError as error:
            error.pointer = f"/images/{place}"
            raise
        pictures[name] = data
        records[name] = PictureRecord(image_id=name, media_type=media_type, bytes=len(data))
        pixels.append(fitted)
    record = ProductRecord(
        shop_id=product.shop_id,
        product_id=product.product_id,
        title=product.title,
        metadata=product.metadata,
        images=tuple(records.values()),
        updated_at=datetime.now(UTC),
    )
    return record, pictures, pixels
