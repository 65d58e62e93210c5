"""The story of one product: decoded, encoded, made durable, made searchable, made known.

A post is answered only after the catalogue holds the product durably and the index finds it. The
catalogue goes first on the way in and on the way out, so whatever a crash leaves behind, the index
can be brought back into agreement with it: `reconcile`, before the service is ready. A write that
failed half way, with the index down, is finished by `keep_settled` or by the shop's next write.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from service.errors import (
    BadInputError,
    LPRError,
    NotReadyError,
    ProductNotFoundError,
    ShopNotFoundError,
)
from service.gallery.catalogue import Catalogue, PictureRecord, ProductRecord, image_id
from service.gallery.entries import Entries, Picture
from service.gallery.index import row_id
from service.inference.bundle import Manifest
from service.inference.model import PictureFeatures
from service.media.images import decode_image, fit
from service.settings import MediaSettings

logger = logging.getLogger(__name__)

_SETTLE_S = 2.0  # between looks for writes that failed half way
_BATCH_PICTURES = 128  # of products that are indexed again, in one write to the index

Pixels = NDArray[np.uint8]


class PictureModel(Protocol):
    """What is asked of `service.inference.model.Model`."""

    @property
    def manifest(self) -> Manifest: ...

    def encode_pictures(self, pictures: Pixels) -> PictureFeatures: ...


class Index(Protocol):
    """What is asked of `service.gallery.index.VectorIndex`."""

    def upsert(self, entries: Entries) -> None: ...

    def delete(self, row_ids: Iterable[str]) -> None: ...

    def row_ids(self, shop_id: str | None = None) -> set[str]: ...


class Epochs(Protocol):
    """What is asked of `service.coordination.epochs.Epochs`."""

    def renew(self, shop_id: str) -> None: ...


@dataclass(frozen=True)
class NewProduct:
    shop_id: str
    product_id: str
    title: str | None
    metadata: dict[str, Any] | None
    images: tuple[bytes, ...]


class Indexer:
    """Safe to share between threads: pictures are encoded side by side, stored one at a time."""

    def __init__(
        self,
        model: PictureModel,
        catalogue: Catalogue,
        index: Index,
        epochs: Epochs,
        limits: MediaSettings,
    ) -> None:
        self._model = model
        self._catalogue = catalogue
        self._index = index
        self._epochs = epochs
        self._limits = limits
        self._writing = threading.Lock()
        self._unsettled: set[str] = set()  # shops with a write that failed half way
        self._stopping = threading.Event()

    def put(self, product: NewProduct) -> ProductRecord:
        """Store or replace a product; durable and searchable when this returns.

        Raises ImageError that points at the picture, StorageFullError, UnavailableError.
        """
        record, pictures, pixels = self._read(product)
        entries = self._encode([record], pixels)
        with self._write(product.shop_id):
            before = self._rows(record.shop_id, record.product_id)
            self._catalogue.put(record, pictures)
            self._index.upsert(entries)
            self._index.delete(sorted(before - _row_ids(record)))
        return record

    def delete(self, shop_id: str, product_id: str) -> None:
        """Remove a product; found by nobody when this returns.

        Raises ShopNotFoundError, ProductNotFoundError.
        """
        with self._write(shop_id):
            before = self._rows(shop_id, product_id)
            was_there = self._catalogue.delete(shop_id, product_id)
            self._index.delete(sorted(before))
        if not was_there:
            self._catalogue.check_shop(shop_id)
            raise ProductNotFoundError(f"shop {shop_id!r} has no product {product_id!r}")

    def delete_shop(self, shop_id: str) -> None:
        """Remove a shop and all its products. Raises ShopNotFoundError."""
        with self._write(shop_id):
            was_there = self._catalogue.delete_shop(shop_id)
            self._index.delete(sorted(self._index.row_ids(shop_id)))
        if not was_there:
            raise ShopNotFoundError(shop_id)

    def reconcile(self) -> None:
        """Bring the whole index into agreement with the catalogue."""
        with self._writing:
            self._catalogue.sweep()
            self._agree(self._catalogue.products(), self._index.row_ids())

    def keep_settled(self) -> None:
        """Finish writes that failed half way as soon as that can be done; returns after `stop`."""
        while not self._stopping.wait(_SETTLE_S):
            try:
                self.settle()
            except LPRError as error:
                logger.warning("writes that failed half way are finished later: %s", error)

    def settle(self) -> None:
        """Finish writes that failed half way. Raises UnavailableError."""
        if self._unsettled:
            with self._writing:
                for shop_id in list(self._unsettled):
                    self._settle(shop_id)

    def stop(self) -> None:
        """Let `keep_settled` return, and a long `reconcile` end early, with NotReadyError."""
        self._stopping.set()

    @contextmanager
    def _write(self, shop_id: str) -> Iterator[None]:
        """One writer at a time; whatever comes of it, every replica looks at the shop anew."""
        with self._writing:
            if shop_id in self._unsettled:
                self._settle(shop_id)
            self._unsettled.add(shop_id)
            try:
                yield
                self._unsettled.discard(shop_id)
            finally:
                self._epochs.renew(shop_id)

    def _settle(self, shop_id: str) -> None:
        try:
            self._agree(self._catalogue.products(shop_id), self._index.row_ids(shop_id))
            self._unsettled.discard(shop_id)
        finally:
            self._epochs.renew(shop_id)

    def _rows(self, shop_id: str, product_id: str) -> set[str]:
        """Keys of the product's rows; where its record is damaged, of all that no other owns."""
        record = self._catalogue.find(shop_id, product_id)
        if record is not None or not self._catalogue.holds(shop_id, product_id):
            return _row_ids(record)
        others = (_row_ids(other) for other in self._catalogue.products(shop_id))
        return self._index.row_ids(shop_id).difference(*others)

    def _agree(self, products: Iterable[ProductRecord], present: set[str]) -> None:
        """Index what is in the catalogue and not among the rows `present`; remove what is not."""
        orphans = set(present)
        shops: set[str] = set()
        behind: list[ProductRecord] = []
        for record in products:
            shops.add(record.shop_id)
            rows = _row_ids(record)
            orphans -= rows
            if not rows <= present:
                behind.append(record)
        try:
            self._index_behind(behind)
            if orphans:
                logger.info("removed from the index", extra={"pictures": len(orphans)})
                self._index.delete(sorted(orphans))
        finally:
            # A row does not say whose it was, so all shops are looked at anew where one goes.
            for shop_id in shops if orphans else {record.shop_id for record in behind}:
                self._epochs.renew(shop_id)

    def _index_behind(self, behind: Sequence[ProductRecord]) -> None:
        done = 0
        for batch in _batches(behind):
            if self._stopping.is_set():
                raise NotReadyError("the service stops before its index agrees with its catalogue")
            self._index_again(batch)
            done += len(batch)
            logger.info("indexed from the catalogue", extra={"products": done, "of": len(behind)})

    def _index_again(self, records: Sequence[ProductRecord]) -> None:
        """Records of one shop, from their pictures in the catalogue."""
        readable: list[ProductRecord] = []
        pixels: list[Pixels] = []
        for record in records:
            try:
                pixels += self._stored_pixels(record)
                readable.append(record)
            except BadInputError as error:  # one damaged product must not keep the shop closed
                logger.error(
                    "a product of the catalogue cannot be indexed: %s",
                    error,
                    extra={"shop_id": record.shop_id, "product_id": record.product_id},
                )
        if readable:
            self._index.upsert(self._encode(readable, pixels))

    def _stored_pixels(self, record: ProductRecord) -> list[Pixels]:
        return [
            self._decode(
                self._catalogue.picture(record.shop_id, record.product_id, image.image_id)[1]
            )[0]
            for image in record.images
        ]

    def _read(self, product: NewProduct) -> tuple[ProductRecord, dict[str, bytes], list[Pixels]]:
        """The record to be, its pictures by image id, and their pixels in the same order."""
        records: dict[str, PictureRecord] = {}
        pictures: dict[str, bytes] = {}
        pixels: list[Pixels] = []
        for place, data in enumerate(product.images):
            name = image_id(data)
            if name in pictures:  # the same picture twice says nothing new
                continue
            try:
                fitted, media_type = self._decode(data)
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

    def _decode(self, data: bytes) -> tuple[Pixels, str]:
        """The pixels the model sees [S,S,3], and the picture's media type."""
        picture = decode_image(data, self._limits)
        size = self._model.manifest.dims.image_size
        return fit(picture.pixels, size), f"image/{picture.format}"

    def _encode(self, records: Sequence[ProductRecord], pixels: Sequence[Pixels]) -> Entries:
        """Rows of records of one shop, whose pictures in order are `pixels`."""
        features = self._model.encode_pictures(np.stack(pixels))
        return Entries(
            records[0].shop_id,
            tuple(picture for record in records for picture in _pictures(record)),
            features.embedding,
            features.match_state,
        )


def _pictures(record: ProductRecord) -> list[Picture]:
    return [Picture(record.product_id, record.title, image.image_id) for image in record.images]


def _row_ids(record: ProductRecord | None) -> set[str]:
    if record is None:
        return set()
    return {row_id(record.shop_id, picture) for picture in _pictures(record)}


def _batches(records: Iterable[ProductRecord]) -> Iterator[list[ProductRecord]]:
    """Runs of products of one shop, each of few enough pictures for one write."""
    batch: list[ProductRecord] = []
    pictures = 0
    for record in records:
        full = pictures + len(record.images) > _BATCH_PICTURES
        if batch and (full or record.shop_id != batch[0].shop_id):
            yield batch
            batch, pictures = [], 0
        batch.append(record)
        pictures += len(record.images)
    if batch:
        yield batch
