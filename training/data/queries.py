"""Queries and the shops they are looked for in, read when they are scored.

Knows nothing of layouts and of models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from training.data.frames import Frame
from training.data.records import Query, ShopPicture


@dataclass(frozen=True)
class QuerySet:
    """A query's shop is that of its own livestream; all pictures come out as squares."""

    queries: list[Query]
    galleries: dict[str, list[ShopPicture]]
    read_picture: Callable[[str, int], np.ndarray]
    """Reference, side in pixels -> uint8 [S,S,3]; raises DataError."""
    read_frames: Callable[[Query, int, int], list[Frame]]
    """Query, frames at most, side in pixels -> frames spread evenly over the clip, without those
    that are missing or cannot be decoded."""

    is_there: Callable[[str], bool]
    """Whether a reference can be read."""

    def there(self, live: str) -> list[ShopPicture]:
        """The pictures of a livestream's shop that are not missing."""
        return [picture for picture in self.galleries[live] if self.is_there(picture.reference)]

    def by_shop(self) -> dict[str, list[int]]:
        """Positions of the queries of each shop that has any."""
        groups: dict[str, list[int]] = {}
        for position, query in enumerate(self.queries):
            groups.setdefault(query.live_id, []).append(position)
        return groups
