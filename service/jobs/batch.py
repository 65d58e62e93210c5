"""A batch of products as it was sent: items in order, each read when it is its turn.

Three ways to write one, told apart by their first bytes:

- JSON lines, one product a line: {shop_id?, product_id, title?, metadata?, images: [base64]};
- an archive of pictures and a `products.jsonl` of such lines, whose `images` are names in it;
- an archive of pictures alone, named by product as `service.media.names` says.

A batch is gone through twice: `check_batch` refuses it whole, before anything is stored; `items`
then hands out one product after the other. What is wrong with an item is that item's affair alone.
Nothing here stores, decodes a picture, or keeps more than one item in memory.
"""

from __future__ import annotations

import base64
import binascii
from codecs import BOM_UTF8
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Protocol

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from service.errors import (
    ArchiveUnreadableError,
    BadInputError,
    BatchEmptyError,
    BatchTooLargeError,
    BodyTooLargeError,
    DuplicateInBatchError,
    MalformedJsonError,
    UnsupportedMediaTypeError,
)
from service.fields import MAX_IMAGES, Identifier, Metadata, Title, parse_json, validation_error
from service.indexing import NewProduct
from service.jobs.archives import CHUNK, Archive, kind_of, open_archive
from service.media.names import is_picture, product_of

MAX_ITEMS = 10_000
PRODUCTS = "products.jsonl"

_IDENTIFIER: TypeAdapter[str] = TypeAdapter(Identifier)


class Line(BaseModel):
    """One product of JSON lines."""

    model_config = ConfigDict(extra="forbid")

    shop_id: Identifier | None = None
    product_id: Identifier
    title: Title | None = None
    metadata: Metadata | None = None
    images: Annotated[list[str], Field(min_length=1, max_length=MAX_IMAGES)]


@dataclass(frozen=True)
class Item:
    """One product of a batch; ids are None where they are missing or wrong themselves."""

    place: int  # in the batch, from 0
    shop_id: str | None
    product_id: str | None
    product: Callable[[], NewProduct]  # raises BadInputError, with a pointer into the item's line
    size: int = 0  # of its pictures, in bytes


class Batch(Protocol):
    """A way to write one."""

    item_bytes: int  # of one product's line, and of its pictures together

    def lines(self) -> Iterator[Callable[[], object]]:
        """Products as they were written; each raises BadInputError if it cannot be read."""
        ...

    def picture(self, reference: str) -> bytes:
        """What an entry of a line's `images` stands for. Raises BadInputError."""
        ...

    def length(self, reference: str) -> int:
        """Bytes of that picture, as far as is known without reading it."""
        ...


@dataclass(frozen=True)
class BatchLimits:
    batch_bytes: int  # of all pictures together, unpacked
    item_bytes: int  # of one product's line, and of its pictures together
    spool: Path  # a folder on disk, for what must be unpacked to be read


@contextmanager
def open_batch(file: IO[bytes], limits: BatchLimits) -> Iterator[Batch]:
    """The batch in a seekable file, which stays the caller's.

    Raises UnsupportedMediaTypeError, and what `open_archive` raises.
    """
    kind = kind_of(file)
    if kind is None:
        _check_lines(file)
        yield _JsonLines(file, limits.item_bytes)
        return
    with open_archive(file, kind, limits.batch_bytes, limits.spool) as archive:
        folder = _folder_of_products(archive)
        if folder is None:
            yield _Pictures(archive, limits.item_bytes)
        else:
            yield _Described(archive, folder, limits.item_bytes)


def check_batch(batch: Batch, shop_id: str | None, most_bytes: int) -> int:
    """How many items it has, whose pictures have `most_bytes` together at most: items may name the
    same one, and each keeps it. `shop_id` is of those that name none.

    Raises BatchEmptyError, BatchTooLargeError, DuplicateInBatchError.
    """
    places: dict[tuple[str, str], int] = {}
    count = size = 0
    for item in items(batch, shop_id):
        count += 1
        size += item.size
        if size > most_bytes:
            raise BatchTooLargeError(f"a batch's pictures have at most {most_bytes} bytes together")
        if count > MAX_ITEMS:
            raise BatchTooLargeError(f"a batch has at most {MAX_ITEMS} items; send several")
        if item.shop_id is None or item.product_id is None:
            continue
        first = places.setdefault((item.shop_id, item.product_id), item.place)
        if first != item.place:
            raise DuplicateInBatchError(
                f"items {first} and {item.place} (counted from 0) are both product "
                f"{item.product_id!r} of shop {item.shop_id!r}; send each product once",
                pointer=f"/{item.place}/product_id",
            )
    if not count:
        raise BatchEmptyError("the batch has no items")
    return count


def items(batch: Batch, shop_id: str | None) -> Iterator[Item]:
    """The batch's items in order; `shop_id` is of those that name none."""
    for place, read in enumerate(batch.lines()):
        written: object = None
        try:
            written = read()
            line = _validated(written)
            size = sum(map(batch.length, line.images))
            if size > batch.item_bytes:
                raise BodyTooLargeError(
                    f"/images: a product's pictures have at most {batch.item_bytes} bytes together",
                    pointer="/images",
                )
        except BadInputError as error:
            yield Item(place, *_ids(written, shop_id), partial(_refuse, error))
            continue
        shop = line.shop_id or shop_id
        yield Item(place, shop, line.product_id, partial(_product, batch, line, shop), size)


def _ids(written: object, shop_id: str | None) -> tuple[str | None, str | None]:
    """Of an item in which something is wrong: its shop and its product, where they are right."""
    if not isinstance(written, dict):
        return None, None
    shop = _valid_id(written.get("shop_id")) if written.get("shop_id") is not None else shop_id
    return shop, _valid_id(written.get("product_id"))


def _valid_id(value: object) -> str | None:
    try:
        return _IDENTIFIER.validate_python(value)
    except ValidationError:
        return None


def _refuse(error: BadInputError) -> NewProduct:
    raise error


def _product(batch: Batch, line: Line, shop_id: str | None) -> NewProduct:
    if shop_id is None:
        raise BadInputError(
            "/shop_id: neither the item nor the batch names a shop", pointer="/shop_id"
        )
    pictures = []
    for place, reference in enumerate(line.images):
        try:
            pictures.append(batch.picture(reference))
        except BadInputError as error:
            error.pointer = f"/images/{place}"
            raise
    return NewProduct(shop_id, line.product_id, line.title or None, line.metadata, tuple(pictures))


class _JsonLines:
    def __init__(self, file: IO[bytes], item_bytes: int) -> None:
        self._file = file
        self.item_bytes = item_bytes

    def lines(self) -> Iterator[Callable[[], object]]:
        self._file.seek(0)
        return _lines(self._file, self.item_bytes)

    def picture(self, reference: str) -> bytes:
        try:
            return base64.b64decode(reference, validate=True)
        except (binascii.Error, ValueError) as error:
            raise BadInputError("the picture is not base64") from error

    def length(self, reference: str) -> int:
        return len(reference) * 3 // 4


class _Described:
    """An archive with a `products.jsonl`; names are relative to the folder that is in."""

    def __init__(self, archive: Archive, folder: PurePosixPath, item_bytes: int) -> None:
        self._archive = archive
        self._folder = folder
        self.item_bytes = item_bytes

    def lines(self) -> Iterator[Callable[[], object]]:
        with self._archive.open(str(self._folder / PRODUCTS)) as file:
            yield from _lines(file, self.item_bytes)

    def picture(self, reference: str) -> bytes:
        name = self._name(reference)
        if name not in self._archive.sizes:
            raise BadInputError(f"there is no {reference[:200]!r} in the archive")
        return self._archive.read(name)

    def length(self, reference: str) -> int:
        return self._archive.sizes.get(self._name(reference), 0)

    def _name(self, reference: str) -> str:
        return str(self._folder / reference)


class _Pictures:
    """An archive of pictures alone, named by product; it says nothing but their ids."""

    def __init__(self, archive: Archive, item_bytes: int) -> None:
        self._archive = archive
        self.item_bytes = item_bytes
        self._products: dict[str, list[str]] = defaultdict(list)
        for name in sorted(archive.sizes):
            path = PurePosixPath(name)
            if not is_picture(path):
                raise ArchiveUnreadableError(
                    f"{name[:200]!r} is no picture by its name, and there is no {PRODUCTS}"
                )
            self._products[product_of(path)].append(name)

    def lines(self) -> Iterator[Callable[[], object]]:
        for product_id, names in self._products.items():
            yield partial(dict, product_id=product_id, images=names)

    def picture(self, reference: str) -> bytes:
        return self._archive.read(reference)

    def length(self, reference: str) -> int:
        return self._archive.sizes[reference]


def _folder_of_products(archive: Archive) -> PurePosixPath | None:
    """Where `products.jsonl` is: at the top, or in the one folder that everything is in."""
    if PRODUCTS in archive.sizes:
        return PurePosixPath()
    tops = {PurePosixPath(name).parts[:1] for name in archive.sizes}  # of the name ".": ()
    if len(tops) == 1:
        [top] = ("/".join(parts) for parts in tops)
        if f"{top}/{PRODUCTS}" in archive.sizes:
            return PurePosixPath(top)
    return None


def _check_lines(file: IO[bytes]) -> None:
    head = _text_of(file.read(CHUNK))
    file.seek(0)
    if head and not head.startswith(b"{"):
        raise UnsupportedMediaTypeError(
            "send the batch as JSON lines, or as a zip, tar or tar.gz archive"
        )


def _lines(file: IO[bytes], most: int) -> Iterator[Callable[[], object]]:
    for text in _raw_lines(file, most):
        if text is None or _text_of(text):
            yield partial(_parse, text, most)


def _text_of(line: bytes) -> bytes:
    """Without blanks around it, and without the mark that some editors begin a file with."""
    return line.removeprefix(BOM_UTF8).strip()


def _raw_lines(file: IO[bytes], most: int) -> Iterator[bytes | None]:
    """Lines without their ends; None for one that is longer than `most` bytes."""
    while line := file.readline(most + 1):
        if len(line) <= most or line.endswith(b"\n"):
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(CHUNK)
        yield None


def _parse(text: bytes | None, most: int) -> object:
    if text is None:
        raise BodyTooLargeError(f"a line of a batch has at most {most} bytes")
    try:
        return parse_json(text)
    except (ValueError, RecursionError) as error:
        raise MalformedJsonError(f"the line is not JSON: {error}") from error


def _validated(value: object) -> Line:
    try:
        return Line.model_validate(value)
    except ValidationError as error:
        raise validation_error(error.errors(include_url=False, include_input=False)) from error
