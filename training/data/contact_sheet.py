"""A picture of what a data set holds: a row a clip, the product first, then its frames."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, UnidentifiedImageError

from training.data.records import Box

CELL = (150, 220)
CAPTION = 16
PAPER = (250, 250, 250)
INTENDED = (230, 40, 40)


@dataclass(frozen=True)
class SheetRow:
    """What is shown of one clip. Pictures are encoded; None stands for a missing one."""

    caption: str
    product: bytes | None
    frames: Sequence[bytes | None]
    boxes: Sequence[tuple[Box, ...]] = ()  # relative


def contact_sheet(rows: Sequence[SheetRow]) -> Image.Image:
    columns = 1 + max((len(row.frames) for row in rows), default=0)
    width, height = CELL
    sheet = Image.new("RGB", (columns * width, max(1, len(rows)) * (height + CAPTION)), PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        top = number * (height + CAPTION)
        draw.text((4, top + 2), row.caption, fill=(20, 20, 20))
        for column, picture in enumerate([row.product, *row.frames]):
            boxes = row.boxes[column - 1] if 0 < column <= len(row.boxes) else ()
            cell = _cell(picture, boxes)
            left = column * width + (width - cell.width) // 2
            sheet.paste(cell, (left, top + CAPTION + (height - cell.height) // 2))
    return sheet


def _cell(picture: bytes | None, boxes: Sequence[Box]) -> Image.Image:
    """The picture, small, with its boxes; a crossed cell where there is none."""
    try:
        if picture is None:
            raise UnidentifiedImageError
        cell = Image.open(io.BytesIO(picture)).convert("RGB")
    except (OSError, ValueError):
        cell = Image.new("RGB", CELL, (225, 225, 225))
        ImageDraw.Draw(cell).line((0, 0, *CELL), fill=INTENDED)
        return cell
    cell.thumbnail((CELL[0] - 4, CELL[1] - 4), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(cell)
    for box in boxes:
        scaled = (side * size for side, size in zip(box, cell.size * 2, strict=True))
        draw.rectangle(tuple(scaled), outline=INTENDED, width=2)
    return cell
