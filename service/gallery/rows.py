"""A picture as a row of the vector index, there and back.

`embedding` is the only float vector, for a second one is refused by older servers; so the match
state is base64 of float16. Row, shop and product keys are hashes: a row's key says whether the
index still agrees with the catalogue's record, and no foreign text ever enters a filter.

Knows nothing of Milvus but how it writes a filter.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from service.errors import InferenceError
from service.gallery.entries import Entries, Picture, Vectors

KEY = "id"
EMBEDDING = "embedding"
TEXTS = {  # fields of text, and how many bytes they hold
    KEY: 64,
    "shop_key": 64,
    "product_key": 64,
    "shop_id": 1_024,
    "product_id": 1_024,
    "title": 8_192,
    "image_id": 64,
    "state": 65_535,
}
OWNER = [KEY, "shop_id", "product_id"]  # what a `Row` is read from
PICTURE = ["product_id", "title", "image_id", "state"]  # what a candidate is

_STATE = np.dtype("<f2")

Fields = Mapping[str, Any]


class Row(NamedTuple):
    """A row's key and whose it is."""

    row_id: str
    shop_id: str
    product_id: str

    @classmethod
    def of(cls, fields: Fields) -> Row:
        return cls(str(fields[KEY]), fields["shop_id"], fields["product_id"])


def row_id(shop_id: str, picture: Picture) -> str:
    """The primary key: it changes with everything of the row that is not computed from pixels."""
    return _hash(shop_id, picture.product_id, picture.image_id, picture.title or "")


def in_shop(shop_id: str) -> str:
    """The filter of a shop's rows."""
    return f'shop_key == "{_hash(shop_id)}"'


def of_products(shop_id: str, product_ids: Iterable[str]) -> str:
    """The filter of the rows of some products of a shop."""
    keys = ", ".join(f'"{_hash(shop_id, product_id)}"' for product_id in product_ids)
    return f"product_key in [{keys}]"


def written(entries: Entries) -> list[dict[str, Any]]:
    """The rows of entries. Raises InferenceError where vectors are not finite numbers."""
    with np.errstate(over="ignore"):
        states = entries.states.astype(_STATE)
    if not (np.isfinite(entries.embeddings).all() and np.isfinite(states).all()):
        raise InferenceError("the model gave a picture's vectors that are not finite numbers")
    shop_key = _hash(entries.shop_id)
    return [
        {
            KEY: row_id(entries.shop_id, picture),
            "shop_key": shop_key,
            "product_key": _hash(entries.shop_id, picture.product_id),
            "shop_id": entries.shop_id,
            "product_id": picture.product_id,
            "title": picture.title or "",
            "image_id": picture.image_id,
            "state": base64.b64encode(state.tobytes()).decode("ascii"),
            EMBEDDING: embedding,
        }
        for picture, embedding, state in zip(
            entries.pictures, entries.embeddings, states, strict=True
        )
    ]


def pictures(rows: Sequence[Fields]) -> tuple[Picture, ...]:
    return tuple(Picture(row["product_id"], row["title"] or None, row["image_id"]) for row in rows)


def states(rows: Sequence[Fields], length: int) -> Vectors:
    """[N,length]"""
    packed = b"".join(base64.b64decode(row["state"]) for row in rows)
    return np.frombuffer(packed, _STATE).astype(np.float32).reshape(len(rows), length)


def embeddings(rows: Sequence[Fields], length: int) -> Vectors:
    """[N,length]"""
    return np.array([row[EMBEDDING] for row in rows], np.float32).reshape(len(rows), length)


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:40]
