"""The durable truth: every product's record and pictures, as files.

A product is acknowledged only after `put` returned, and everything else (the index, the hot shops,
Redis) can be made again from here. Each file is written under a temporary name, synced and renamed,
then its folder is synced; `record.json` comes last, so a product is there exactly when its record
is, whatever the moment of a crash. Pictures are named by their content, so a new record's never
overwrite different ones; those that only the old record had are removed after it, and who read the
old record a moment ago may miss one. A record that cannot be read is logged and counts as none: it
hides no other product, and can be replaced or deleted.

    shops/<shop>/shop.json
    shops/<shop>/<product>/record.json
    shops/<shop>/<product>/<image_id>
    trash/                                 shops on their way out

Knows nothing of vectors. Any number of readers, one writer at a time (`service.indexing`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from service.errors import (
    CatalogueUnavailableError,
    NotFoundError,
    ProductNotFoundError,
    ShopNotFoundError,
    StorageFullError,
)

logger = logging.getLogger(__name__)

_RECORD = "record.json"
_SHOP = "shop.json"
_TEMPORARY = ".tmp"


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


class Catalogue:
    """The catalogue in one local folder.

    Every method may raise StorageFullError or CatalogueUnavailableError.
    """

    def __init__(self, root: Path) -> None:
        self._shops = root / "shops"
        self._trash = root / "trash"
        with _storage_errors():
            for folder in (self._shops, self._trash):
                folder.mkdir(parents=True, exist_ok=True)
            _sync_folder(root)

    def put(self, record: ProductRecord, pictures: Mapping[str, bytes]) -> None:
        """Store a product and its pictures by image id; durable when this returns."""
        with _storage_errors():
            folder = self._make_product_folder(record.shop_id, record.product_id)
            for name, data in pictures.items():
                _write(folder / name, data)  # also one that is there: it may be damaged
            _sync_folder(folder)
            _write(folder / _RECORD, record.model_dump_json().encode())
            _sync_folder(folder)
            _remove_all_but(folder, {_RECORD, *pictures})

    def find(self, shop_id: str, product_id: str) -> ProductRecord | None:
        """None too where the product's record is damaged; `holds` tells."""
        with _storage_errors():
            return _read_record(self._product_folder(shop_id, product_id))

    def holds(self, shop_id: str, product_id: str) -> bool:
        """Whether there is a record of the product, readable or not."""
        with _storage_errors():
            return (self._product_folder(shop_id, product_id) / _RECORD).is_file()

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
                with _storage_errors():
                    path = self._product_folder(shop_id, product_id) / name
                    try:
                        return picture, path.read_bytes()
                    except FileNotFoundError:  # replaced since the record was read
                        break
        raise NotFoundError(f"product {product_id!r} has no image {name!r}")

    def delete(self, shop_id: str, product_id: str) -> bool:
        """Whether it was there; durably gone when this returns. The shop stays, even empty."""
        with _storage_errors():
            folder = self._product_folder(shop_id, product_id)
            try:
                (folder / _RECORD).unlink()
            except FileNotFoundError:
                return False
            _sync_folder(folder)
            shutil.rmtree(folder, ignore_errors=True)
            return True

    def delete_shop(self, shop_id: str) -> bool:
        """Whether it was there; durably gone, products and all, when this returns."""
        with _storage_errors():
            waste = self._trash / uuid.uuid4().hex
            try:
                self._shop_folder(shop_id).rename(waste)
            except FileNotFoundError:
                return False
            _sync_folder(self._shops)
            _sync_folder(self._trash)
            shutil.rmtree(waste, ignore_errors=True)
            return True

    def has_shop(self, shop_id: str) -> bool:
        with _storage_errors():
            return (self._shop_folder(shop_id) / _SHOP).is_file()

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
        records: list[ProductRecord] = []
        last: str | None = None
        with _storage_errors():
            for folder in _folders(self._shop_folder(shop_id)):
                if after is not None and folder.name <= after:
                    continue
                record = _read_record(folder)
                if record is None:
                    continue
                if len(records) == limit:
                    return records, last
                records.append(record)
                last = folder.name
        return records, None

    def products(self, shop_id: str | None = None) -> Iterator[ProductRecord]:
        """Every product, or every one of a shop, shop after shop."""
        with _storage_errors():
            shops = [self._shop_folder(shop_id)] if shop_id is not None else _folders(self._shops)
            for shop in shops:
                for folder in _folders(shop):
                    record = _read_record(folder)
                    if record is not None:
                        yield record

    def sweep(self) -> None:
        """Remove what crashes left behind; only while nobody writes."""
        with _storage_errors():
            for waste in _folders(self._trash):
                shutil.rmtree(waste, ignore_errors=True)
            for shop in _folders(self._shops):
                for folder in _folders(shop):
                    if not (folder / _RECORD).exists():
                        shutil.rmtree(folder, ignore_errors=True)
            for record in self.products():
                folder = self._product_folder(record.shop_id, record.product_id)
                _remove_all_but(folder, {_RECORD, *(image.image_id for image in record.images)})

    def _make_product_folder(self, shop_id: str, product_id: str) -> Path:
        shop = self._shop_folder(shop_id)
        if not (shop / _SHOP).is_file():
            shop.mkdir(exist_ok=True)
            _sync_folder(self._shops)
            _write(shop / _SHOP, json.dumps({"shop_id": shop_id}).encode())
        folder = self._product_folder(shop_id, product_id)
        if not folder.is_dir():
            folder.mkdir()
            _sync_folder(shop)
        return folder

    def _shop_folder(self, shop_id: str) -> Path:
        return self._shops / _folder_name(shop_id)

    def _product_folder(self, shop_id: str, product_id: str) -> Path:
        return self._shop_folder(shop_id) / _folder_name(product_id)


def _folder_name(identifier: str) -> str:
    """Readable where the id is, safe and its own for any id on any file system."""
    readable = re.sub(r"[^a-z0-9]+", "-", identifier.lower()).strip("-")[:40]
    return f"{readable}-{hashlib.sha256(identifier.encode()).hexdigest()[:24]}"


def _folders(parent: Path) -> list[Path]:
    try:
        return sorted(path for path in parent.iterdir() if path.is_dir())
    except FileNotFoundError:
        return []


def _read_record(folder: Path) -> ProductRecord | None:
    try:
        return ProductRecord.model_validate_json((folder / _RECORD).read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        logger.error("a record of the catalogue is damaged: %s: %s", folder, error)
        return None


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f"{uuid.uuid4().hex}{_TEMPORARY}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_all_but(folder: Path, keep: Iterable[str]) -> None:
    for path in set(folder.iterdir()) - {folder / name for name in keep}:
        path.unlink(missing_ok=True)


@contextmanager
def _storage_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFullError(
                "no space is left for the catalogue; free some and send this again"
            ) from error
        raise CatalogueUnavailableError(
            f"the catalogue cannot be used: {error.strerror or error}"
        ) from error
