"""What the gallery's rooms hand each other: pictures of a shop, with and without their vectors.

The vectors of row i belong to `pictures[i]`, everywhere.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


class Picture(NamedTuple):
    """Which picture of which product, and what an answer says of it."""

    product_id: str
    title: str | None
    image_id: str


@dataclass(frozen=True)
class Entries:
    """Pictures of one shop with what the model made of them."""

    shop_id: str
    pictures: tuple[Picture, ...]
    embeddings: Vectors  # [N,E], length 1
    states: Vectors  # [N,D]

    def of(self, product_ids: Set[str]) -> Entries:
        """Those of some products."""
        rows = [i for i, picture in enumerate(self.pictures) if picture.product_id in product_ids]
        return Entries(
            self.shop_id,
            tuple(self.pictures[row] for row in rows),
            self.embeddings[rows],
            self.states[rows],
        )


@dataclass(frozen=True)
class Candidates:
    """Pictures that may show the clip's product."""

    pictures: tuple[Picture, ...]
    cosines: Vectors  # [K], of the clip's embedding with each picture's
    states: Vectors  # [K,D]
    exact: bool  # True: every picture of the shop, False: the nearest of them
