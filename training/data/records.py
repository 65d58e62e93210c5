"""What LPR data sets are made of: a clip of training, a query of the test, and their ids.

Ids follow LPR4M: a livestream is a uuid, a clip `<live>-<start ms>-<end ms>`, a frame
`<clip>-<second>`. Knows nothing of files.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from training.data.errors import DataError

Scale = Literal["small", "medium", "large"]
Duration = Literal["short", "medium", "long"]
Products = Literal["few", "medium", "abundant"]


class Box(NamedTuple):
    """Left, top, right, bottom; relative to the frame, or in its original pixels."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def area(self) -> float:
        return max(0.0, self.right - self.left) * max(0.0, self.bottom - self.top)

    def relative(self, width: int, height: int) -> Box:
        """To the frame of `width` x `height` original pixels; a relative box stays as it is."""
        if max(self) <= 1.0:
            return self
        return Box(self.left / width, self.top / height, self.right / width, self.bottom / height)


@dataclass(frozen=True, slots=True)
class Clip:
    """One line of training annotations: a clip and the picture of the product it sells."""

    clip_id: str
    live_id: str
    frames: tuple[str, ...]
    """References to pictures, in time: frame ids (LPR4M) or paths (its 750K subset)."""
    boxes: tuple[tuple[Box, ...], ...]
    """The intended product in each frame, mostly one or none; empty where nothing is annotated."""
    image_id: str
    image: str
    """Reference to the product's picture."""
    product_id: str
    """Clips of the same product share it: the spu where the data tells it, else the image id."""
    title: str = ""
    category_id: str = ""
    category: str = ""
    speech: str = ""
    scale: str = ""
    duration: str = ""
    products: str = ""


@dataclass(frozen=True, slots=True)
class Query:
    """A clip whose product is looked for among the pictures of its own livestream's shop."""

    clip_id: str
    live_id: str
    frames: tuple[str, ...]
    truth: tuple[str, ...]
    """Image ids; the query hits when any of them is among the first k."""
    boxes: tuple[tuple[Box, ...], ...] = ()
    speech: str = ""
    scale: str = ""
    duration: str = ""
    products: str = ""
    category: str = ""


class ShopPicture(NamedTuple):
    """A picture of a livestream's gallery."""

    image_id: str
    reference: str
    title: str = ""


def live_of(identity: str) -> str:
    """The livestream of a clip or frame id: its first five dash-separated fields."""
    fields = identity.split("-")
    if len(fields) < 7 or not all(fields):
        raise DataError(f"{identity!r} is no clip id: <uuid>-<start ms>-<end ms>")
    return "-".join(fields[:5])


def clip_of(frame_id: str) -> str:
    """The clip of a frame id: all but its last field."""
    clip, _, second = frame_id.rpartition("-")
    if not second.isdecimal() or clip.count("-") < 6:
        raise DataError(f"{frame_id!r} is no frame id: <clip>-<second>")
    return clip


def to_boxes(value: object) -> tuple[Box, ...]:
    """A frame's annotation: one box of four numbers, or a list of boxes; all zeros means none."""
    if not isinstance(value, list | tuple):
        raise DataError(f"boxes of a frame must be a list, not {type(value).__name__}")
    boxes = value if all(isinstance(item, list | tuple) for item in value) else [value]
    return tuple(box for item in boxes if (box := _to_box(item)).area > 0)


def _to_box(values: object) -> Box:
    if not isinstance(values, list | tuple) or len(values) < 4:
        raise DataError(f"a box has four numbers: {values!r}")
    for value in values[:4]:
        if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            raise DataError(f"a box has four numbers of 0 or more: {values!r}")
    return Box(*(float(value) for value in values[:4]))


# The paper's three difficulties of a clip (RICE, section 3), from the intended product's box in
# each frame (None where it is not seen) and from how many products are seen in each frame.


def scale_type(boxes: list[Box | None]) -> Scale:
    """By the mean of box area over frame area, in the frames that show the product."""
    areas = [box.area for box in boxes if box is not None]
    mean = sum(areas) / len(areas) if areas else 0.0
    return "small" if mean <= 0.2 else "large" if mean > 0.4 else "medium"


def duration_type(boxes: list[Box | None]) -> Duration:
    """By the share of frames that show the product."""
    share = sum(box is not None for box in boxes) / len(boxes)
    return "short" if share <= 0.4 else "long" if share > 0.7 else "medium"


def products_type(seen: list[int]) -> Products:
    """By the mean number of products a frame."""
    mean = sum(seen) / len(seen)
    return "few" if mean <= 3 else "abundant" if mean > 7 else "medium"
