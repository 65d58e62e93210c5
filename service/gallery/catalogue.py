"""The durable truth: every product's record and pictures, as files of a `Storage`.

A product is acknowledged only after `put` returned, and everything else (the index, the hot shops,
Redis) can be made again from here. `record.json` comes last, so a product is there exactly when its
record is, whatever the moment of a crash. Pictures are named by their content, so a new record's
never overwrite different ones; those that only the old record had are removed after it, and who
read the old record a moment ago may miss one. A record that cannot be read is logged and counts as
none: it hides no other product, and can be replaced or deleted.

    catalogue-id
    shops/<shop>/shop.json
    shops/<shop>/<product>/record.json
    shops/<shop>/<product>/<image_id>

Knows nothing of vectors. Any number of readers, one writer a product at a time
(`service.indexing`); a writer that is not sure to be alone removes no picture, for another's record
may need it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from service.errors import NotFoundError, ProductNotFoundError, ShopNotFoundError
from service.gallery.storage import Storage

logger = logging.getLogger(__name__)

_RECORD = "record.json"
_SHOP = "shop.json"
_SHOPS = "shops"
_ID = "catalogue-id"
_LAST = "~"  # comes after every name in a product's folder
_DELETERS = 8  # products of a shop that are deleted at once

Alone = Callable[[], bool]
"""Whether nobody else can write the same now."""

Hold = Callable[[str], AbstractContextManager[Alone]]


class PictureRecord(BaseModel):
    model_config = ConfigDict(frozen=True)

    image_id: str
    media_type: str
    bytes: int


class ProductRecord(BaseModel):
    model_config = ConfigDict(frozen=True)

    shop_id: str
    product_id: str
    title: str | None = None
    metadata: dict[str, Any] | None = None
    images: tuple[PictureRecord, ...]
    updated_at: datetime


def image_id(data: bytes) -> str:
    """A picture's name: the same bytes have the same one, wherever and whenever they come."""
    return hashlib.sha256(data).hexdigest()[:32]


def _surely() -> bool:
    return True


def _alone(_: str) -> AbstractContextManager[Alone]:
    return nullcontext(_surely)


class Catalogue:
    """Every method may raise StorageFullError or CatalogueUnavailableError."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def own_id(self) -> str:
        """The same for all who share this catalogue, and no other's."""
        own = self._storage.get(_ID)
        if own is None:
            self._storage.put_new(_ID, uuid.uuid4().hex[:12].encode())
            return self.own_id()
        return own.decode("ascii")

    def put(
        self, record: ProductRecord, pictures: Mapping[str, bytes], *, alone: Alone = _surely
    ) -> None:
        """Store a product and its pictures by image id; durable when this returns.

        Not `alone` by then: what only the record before had stays there.
        """
        shop = shop_folder(record.shop_id)
        folder = product_folder(record.shop_id, record.product_id)
        files = {f"{folder}/{name}": data for name, data in pictures.items()}
        if not self.has_shop(record.shop_id):
            files[f"{shop}/{_SHOP}"] = json.dumps({"shop_id": record.shop_id}).encode()
        self._storage.put_many(files)  # also pictures that are there: they may be damaged
        self._storage.put(f"{folder}/{_RECORD}", record.model_dump_json().encode())
        self._remove_all_but(folder, {_RECORD, *pictures}, alone)

    def find(self, shop_id: str, product_id: str) -> ProductRecord | None:
        """None too where the product's record is damaged; `holds` tells."""
        return self._read_record(product_folder(shop_id, product_id))

    def holds(self, shop_id: str, product_id: str) -> bool:
        """Whether there is a record of the product, readable or not."""
        record = f"{product_folder(shop_id, product_id)}/{_RECORD}"
        return self._storage.get(record) is not None

    def get(self, shop_id: str, product_id: str) -> ProductRecord:
        """Raises ShopNotFoundError, ProductNotFoundError."""
        record = self.find(shop_id, product_id)
        if record is None:
            self.check_shop(shop_id)
            raise ProductNotFoundError(f"shop {shop_id!r} has no product {product_id!r}")
        return record

    def picture(self, shop_id: str, product_id: str, name: str) -> tuple[PictureRecord, bytes]:
        """A picture's record and its bytes as they were posted. Raises NotFoundError."""
        record = self.get(shop_id, product_id)
        for picture in record.images:
            if picture.image_id == name:
                data = self._storage.get(f"{product_folder(shop_id, product_id)}/{name}")
                if data is not None:  # else: replaced since the record was read
                    return picture, data
        raise NotFoundError(f"product {product_id!r} has no image {name!r}")

    def delete(self, shop_id: str, product_id: str, *, alone: Alone = _surely) -> bool:
        """Whether it was there; durably gone when this returns. The shop stays, even empty."""
        return self._delete(product_folder(shop_id, product_id), alone)

    def delete_shop(self, shop_id: str, hold: Hold = _alone) -> bool:
        """Whether it was there; durably gone when this returns, with every product that it had.

        Product after product, so a crash leaves the shop with some of them. `hold` is entered with
        a product's folder for its deletion, and tells whether that is done alone.
        """

        def delete(folder: str) -> None:
            with hold(folder) as alone:
                self._delete(folder, alone)

        was_there = self.has_shop(shop_id)
        with ThreadPoolExecutor(_DELETERS) as deleters:
            list(deleters.map(delete, list(self._product_folders(shop_folder(shop_id)))))
        self._storage.delete([f"{shop_folder(shop_id)}/{_SHOP}"])
        return was_there

    def has_shop(self, shop_id: str) -> bool:
        folder = shop_folder(shop_id)
        # The second where a shop was deleted while a product came.
        return self._storage.get(f"{folder}/{_SHOP}") is not None or any(
            self._record_folders(folder)
        )

    def check_shop(self, shop_id: str) -> None:
        """Raises ShopNotFoundError."""
        if not self.has_shop(shop_id):
            raise ShopNotFoundError(shop_id)

    def page(
        self, shop_id: str, *, limit: int, after: str | None = None
    ) -> tuple[list[ProductRecord], str | None]:
        """Up to `limit` products after the cursor `after`, and the next cursor if there are more.

        Products come in the order of their folders' names, which is stable. Raises
        ShopNotFoundError.
        """
        self.check_shop(shop_id)
        shop = shop_folder(shop_id)
        records: list[ProductRecord] = []
        last: str | None = None
        for folder in self._record_folders(shop, f"{shop}/{after}/{_LAST}" if after else None):
            record = self._read_record(folder)
            if record is None:
                continue
            if len(records) == limit:
                return records, last
            records.append(record)
            last = folder.rpartition("/")[2]
        return records, None

    def products(self, shop_id: str | None = None) -> Iterator[ProductRecord]:
        """Every product, or every one of a shop, shop after shop."""
        for folder in self._record_folders(_SHOPS if shop_id is None else shop_folder(shop_id)):
            record = self._read_record(folder)
            if record is not None:
                yield record

    def sweep(self) -> None:
        """Remove what crashes left behind; only while nobody writes."""
        for folder in list(self._product_folders(_SHOPS)):
            record = self._read_record(folder)
            if record is not None:
                self._remove_all_but(
                    folder, {_RECORD, *(image.image_id for image in record.images)}
                )
            elif self._storage.get(f"{folder}/{_RECORD}") is None:
                self._remove_all_but(folder, ())

    def _record_folders(self, within: str, after: str | None = None) -> Iterator[str]:
        """Folders of all products that have a record."""
        for key in self._storage.keys(within, after):
            folder, _, name = key.rpartition("/")
            if name == _RECORD:
                yield folder

    def _product_folders(self, within: str) -> Iterator[str]:
        """Folders of all products, with those that a crash left without a record."""
        last = ""
        for key in self._storage.keys(within):
            folder = key.rpartition("/")[0]
            if folder != last and folder.count("/") == 2:
                yield folder
            last = folder

    def _read_record(self, folder: str) -> ProductRecord | None:
        data = self._storage.get(f"{folder}/{_RECORD}")
        if data is None:
            return None
        try:
            return ProductRecord.model_validate_json(data)
        except ValueError as error:
            logger.error("a record of the catalogue is damaged: %s: %s", folder, error)
            return None

    def _delete(self, folder: str, alone: Alone) -> bool:
        record = f"{folder}/{_RECORD}"
        files = set(self._storage.keys(folder))
        self._storage.delete([record])
        if alone():
            self._storage.delete(files - {record})
        return record in files

    def _remove_all_but(self, folder: str, keep: Iterable[str], alone: Alone = _surely) -> None:
        gone = set(self._storage.keys(folder)) - {f"{folder}/{name}" for name in keep}
        if gone and alone():  # asked last: what came from another writer was not seen by then
            self._storage.delete(gone)


def shop_folder(shop_id: str) -> str:
    return f"{_SHOPS}/{_folder_name(shop_id)}"


def product_folder(shop_id: str, product_id: str) -> str:
    return f"{shop_folder(shop_id)}/{_folder_name(product_id)}"


def _folder_name(identifier: str) -> str:
    """Readable where the id is, safe and its own for any id on any file system."""
    readable = re.sub(r"[^a-z0-9]+", "-", identifier.lower()).strip("-")[:40]
    return f"{readable}-{hashlib.sha256(identifier.encode()).hexdigest()[:24]}"
