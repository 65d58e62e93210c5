"""Readers of folders of pictures: product pictures on one side, photographs of them on the other.

The layout (GroceryStoreDataset's pictures, and the made products of `lpr made`):
`classes.csv` (class_id, class_name, iconic_image, ...), `train.csv`, `val.csv`, `test.csv`
(image, class_id, clip_id); consecutive photographs of one product share a clip_id.
Pictures are decoded once and kept as uint8 tensors, square, centre-cropped.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from training.data.errors import DataError

CATEGORY, DESCRIPTION = "coarse_name", "description"  # of classes.csv; not every set has them


@dataclass(frozen=True)
class PhotographSet:
    """Products, their pictures and the photographs of them."""

    names: list[str]  # of the P products
    pictures: Tensor  # uint8 [P,S,S,3]
    photographs: Tensor  # uint8 [M,S,S,3]
    product: Tensor  # int64 [M], the photograph's product
    clip: Tensor  # int64 [M], the photograph's clip
    categories: list[str] = field(default_factory=list)  # of the products, where they are told
    titles: list[str] = field(default_factory=list)  # the same

    def clips(self) -> list[list[int]]:
        """The photographs of each clip, in order."""
        groups: dict[int, list[int]] = {}
        for photograph, clip in enumerate(self.clip.tolist()):
            groups.setdefault(clip, []).append(photograph)
        return list(groups.values())


Progress = Callable[[Iterable[Path]], Iterable[Path]]


def read_photographs(
    folder: Path, split: str, size: int, progress: Progress = lambda paths: paths
) -> PhotographSet:
    """Reads one split; pictures come out as size x size. Raises DataError."""
    classes = read_rows(folder / "classes.csv", ("class_id", "class_name", "iconic_image"))
    index = {row["class_id"]: position for position, row in enumerate(classes)}
    table = folder / f"{split}.csv"
    rows = read_rows(table, ("image", "class_id", "clip_id"))
    clip_index: dict[str, int] = {}
    shown: dict[str, str] = {}
    for line, row in enumerate(rows, start=2):
        clip, product = row["clip_id"], row["class_id"]
        if product not in index:
            raise DataError(f"{table}:{line}: class_id {product!r} is unknown")
        if shown.setdefault(clip, product) != product:
            raise DataError(
                f"{table}:{line}: clip_id {clip!r} is of class_id {shown[clip]!r} already"
            )
        clip_index.setdefault(clip, len(clip_index))
    return PhotographSet(
        names=[row["class_name"] for row in classes],
        pictures=read_pictures([folder / row["iconic_image"] for row in classes], size),
        photographs=read_pictures([folder / row["image"] for row in rows], size, progress),
        product=torch.tensor([index[row["class_id"]] for row in rows]),
        clip=torch.tensor([clip_index[row["clip_id"]] for row in rows]),
        categories=[row[CATEGORY] for row in classes] if CATEGORY in classes[0] else [],
        titles=[_title(row) for row in classes] if DESCRIPTION in classes[0] else [],
    )


def _title(row: dict[str, str]) -> str:
    return f"{row['class_name'].replace('-', ' ')}. {row[DESCRIPTION]}"


def read_single_pictures(
    folder: Path, size: int, progress: Progress = lambda paths: paths
) -> PhotographSet:
    """Reads `images.csv` (column image): each picture is a product and its own photograph."""
    rows = read_rows(folder / "images.csv", ("image",))
    pictures = read_pictures([folder / row["image"] for row in rows], size, progress)
    each = torch.arange(len(rows))
    return PhotographSet([row["image"] for row in rows], pictures, pictures, each, each)


def read_pictures(paths: list[Path], size: int, progress: Progress = lambda paths: paths) -> Tensor:
    """uint8 [N,size,size,3]: shorter side to `size` (bicubic, antialiased), centre crop."""
    pictures = torch.empty(len(paths), size, size, 3, dtype=torch.uint8)
    with ThreadPoolExecutor() as pool:
        read = pool.map(lambda path: read_picture(path, size), paths)
        for position, (_, pixels) in enumerate(zip(progress(paths), read, strict=True)):
            pictures[position] = torch.from_numpy(pixels)
    return pictures


def read_picture(path: Path, size: int) -> np.ndarray:
    """One picture, uint8 [size,size,3], by the manifest's preprocessing."""
    try:
        return fit_picture(path.read_bytes(), str(path), size)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error


def fit_picture(data: bytes, name: str, size: int) -> np.ndarray:
    """The same of an encoded picture; `name` is for the message of a DataError."""
    return fit_square(upright_picture(data, name, size)[0], size)


def upright_picture(data: bytes, name: str, least: int) -> tuple[Image.Image, tuple[int, int]]:
    """Decoded, RGB, transparency laid over white; and the width and height it has as a whole.

    A JPEG is decoded at a half, a quarter or an eighth of its size where its shorter side has
    `least` pixels even so, as the service does. Raises DataError, which begins with `name`.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            whole = image.size
            image.draft(None, (least, least))
            upright = ImageOps.exif_transpose(image)
            if upright.has_transparency_data:
                upright = upright.convert("RGBA")
                upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
            return upright.convert("RGB"), whole if upright.size == image.size else whole[::-1]
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{name}: {error}") from error


def fit_square(picture: Image.Image, size: int) -> np.ndarray:
    """uint8 [size,size,3]: shorter side to `size`, bicubic and antialiased, centre crop."""
    return np.array(ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC))


def read_rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}") from error
    if not rows:
        raise DataError(f"{path}: no rows")
    for line, row in enumerate(rows, start=2):
        missing = [column for column in columns if not row.get(column)]
        if missing:
            raise DataError(f"{path}:{line}: no value for {', '.join(missing)}")
    return rows
