"""From a product's pictures to its rows: decoded, fitted to the model's size, encoded.

Knows where the pictures of a product lie that is in the catalogue already; writes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.errors import BadInputError
from service.gallery.catalogue import Catalogue, ProductRecord
from service.gallery.entries import Entries, Picture
from service.gallery.index import row_id
from service.inference.manifest import Manifest
from service.inference.model import PictureFeatures
from service.media.images import decode_image, fit
from service.settings import MediaSettings

logger = logging.getLogger(__name__)

Pixels = NDArray[np.uint8]


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

    def decode(self, data: bytes) -> tuple[Pixels, str]:
        """The pixels the model sees [S,S,3], and the picture's media type. Raises ImageError."""
        picture = decode_image(data, self._limits)
        size = self._model.manifest.dims.image_size
        return fit(picture.pixels, size), f"image/{picture.format}"

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
        return [
            self.decode(
                self._catalogue.picture(record.shop_id, record.product_id, image.image_id)[1]
            )[0]
            for image in record.images
        ]


def pictures_of(record: ProductRecord) -> list[Picture]:
    return [Picture(record.product_id, record.title, image.image_id) for image in record.images]


def row_ids_of(record: ProductRecord | None) -> set[str]:
    """The rows that the index is to have of a product; none of one that is not there."""
    if record is None:
        return set()
    return {row_id(record.shop_id, picture) for picture in pictures_of(record)}
