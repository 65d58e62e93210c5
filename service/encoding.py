"""From a product's pictures to its rows: decoded, fitted to the model's size, encoded.

Knows where the pictures of a product lie that is in the catalogue already; writes nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from service.errors import BadInputError
from service.gallery.catalogue import Catalogue, ProductRecord
from service.gallery.entries import Entries, Picture
from service.gallery.rows import row_id
from service.inference.features import PictureFeatures
from service.inference.manifest import Manifest
from service.media.images import decode_square
from service.settings import MediaSettings

logger = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]

_KEPT_BYTES = 64_000_000
_KEPT_S = 60.0  # from when on other pictures may take the place of one that nobody has asked for


class PictureModel(Protocol):
    """What is asked of `service.inference.model.Model`."""

    @property
    def manifest(self) -> Manifest: ...

    def encode_pictures(self, pictures: Pixels, titles: Sequence[str] = ()) -> PictureFeatures: ...


class Encoder:
    """Safe to share between threads."""

    def __init__(self, model: PictureModel, catalogue: Catalogue, limits: MediaSettings) -> None:
        self._model = model
        self._catalogue = catalogue
        self._limits = limits
        self._kept = _Kept()

    def decode(self, data: bytes) -> tuple[Pixels, str]:
        """The pixels the model sees [S,S,3], and the picture's media type. Raises ImageError."""
        picture = decode_square(data, self._model.manifest.dims.image_size, self._limits)
        return picture.pixels, f"image/{picture.format}"

    def keep(self, record: ProductRecord, pixels: Sequence[Pixels]) -> None:
        """`encode_stored` will be asked for this record soon, whose pictures in order are `pixels`;
        they need not be decoded again then."""
        for image, of_image in zip(record.images, pixels, strict=True):
            self._kept.keep((record.shop_id, record.product_id, image.image_id), of_image)

    def encode(self, records: Sequence[ProductRecord], pixels: Sequence[Pixels]) -> Entries:
        """Rows of records of one shop, whose pictures in order are `pixels`.

        Raises InferenceError.
        """
        pictures = tuple(picture for record in records for picture in pictures_of(record))
        titles = [picture.title or "" for picture in pictures]
        features = self._model.encode_pictures(np.stack(pixels), titles)
        return Entries(
            records[0].shop_id,
            pictures,
            features.embedding,
            features.match_state,
        )

    def encode_stored(
        self, records: Sequence[ProductRecord]
    ) -> tuple[Entries | None, dict[str, BadInputError]]:
        """Rows of records of one shop, from their pictures in the catalogue.

        With the products that cannot be encoded for good, because a picture is damaged. Raises
        InferenceError, CatalogueUnavailableError.
        """
        readable: list[ProductRecord] = []
        pixels: list[Pixels] = []
        damaged: dict[str, BadInputError] = {}
        for record in records:
            try:
                pixels += self._stored_pixels(record)
                readable.append(record)
            except BadInputError as error:  # one damaged product must not keep the others out
                logger.error(
                    "a product of the catalogue cannot be indexed: %s",
                    error,
                    extra={"shop_id": record.shop_id, "product_id": record.product_id},
                )
                damaged[record.product_id] = error
        return (self.encode(readable, pixels) if readable else None), damaged

    def _stored_pixels(self, record: ProductRecord) -> list[Pixels]:
        found = []
        for image in record.images:
            place = (record.shop_id, record.product_id, image.image_id)
            pixels = self._kept.take(place)
            found.append(
                self.decode(self._catalogue.picture(*place)[1])[0] if pixels is None else pixels
            )
        return found


class _Pixels(NamedTuple):
    pixels: Pixels
    since: float


class _Kept:
    """Pixels of pictures that were stored a moment ago, each handed out once; up to a number of
    bytes. Of a long batch its beginning, which is encoded first."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, str], _Pixels] = {}  # the oldest first
        self._bytes = 0
        self._guard = threading.Lock()

    def keep(self, place: tuple[str, str, str], pixels: Pixels) -> None:
        with self._guard:
            now = time.monotonic()
            while self._found and next(iter(self._found.values())).since < now - _KEPT_S:
                self._take(next(iter(self._found)))
            self._take(place)
            if self._bytes + pixels.nbytes <= _KEPT_BYTES:
                self._found[place] = _Pixels(pixels, now)
                self._bytes += pixels.nbytes

    def take(self, place: tuple[str, str, str]) -> Pixels | None:
        with self._guard:
            return self._take(place)

    def _take(self, place: tuple[str, str, str]) -> Pixels | None:
        found = self._found.pop(place, None)
        if found is None:
            return None
        self._bytes -= found.pixels.nbytes
        return found.pixels


def pictures_of(record: ProductRecord) -> list[Picture]:
    return [Picture(record.product_id, record.title, image.image_id) for image in record.images]


def row_ids_of(record: ProductRecord | None) -> set[str]:
    """The rows that the index is to have of a product; none of one that is not there."""
    if record is None:
        return set()
    return {row_id(record.shop_id, picture) for picture in pictures_of(record)}
