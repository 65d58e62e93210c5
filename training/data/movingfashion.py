"""Reader of MovingFashion (github.com/HumaticsLAB/SEAM-Match-RCNN).

`train.json` and `test.json`: {product: {"video_paths", "img_path", "source"}}; source 1 is
regular, 0 is hard. One gallery for all queries. Some videos could never be fetched by anyone
(22 of training, 1 of the test): they are counted, and their clips left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av
import numpy as np

from training.data.errors import DataError
from training.data.lpr4m import read_json

SOURCES: dict[int, Literal["hard", "regular"]] = {0: "hard", 1: "regular"}


@dataclass(frozen=True)
class Video:
    """A video that shows a product."""

    product: int  # row in `MovingFashion.products`
    path: Path
    source: Literal["hard", "regular"]


@dataclass(frozen=True)
class MovingFashion:
    """One split: products with their pictures, and the videos of them that are there."""

    products: list[str]
    pictures: list[Path]
    videos: list[Video]
    missing: list[Path]


def read_movingfashion(folder: Path, split: str) -> MovingFashion:
    """Raises DataError naming the product whose entry is wrong."""
    file = folder / f"{split}.json"
    products, pictures, videos, missing = [], [], [], []
    for row, (product, entry) in enumerate(read_json(file).items()):
        try:
            paths = [folder / path for path in entry["video_paths"]]
            source = SOURCES[entry["source"]]
            pictures.append(folder / entry["img_path"])
        except (KeyError, TypeError) as error:
            raise DataError(f"{file}: product {product!r}: {error!r}") from error
        products.append(product)
        videos += [Video(row, path, source) for path in paths if path.is_file()]
        missing += [path for path in paths if not path.is_file()]
    if not videos:
        raise DataError(f"{file}: none of its {len(missing)} videos is there")
    return MovingFashion(products, pictures, videos, missing)


def read_frames(path: Path, choose: Callable[[int], list[int]]) -> list[np.ndarray]:
    """Frames, uint8 [H,W,3], of the seconds that `choose` picks among so many, one of each.

    Raises DataError, also where nothing could be decoded.
    """
    wanted = set(choose(_seconds(path)))
    frames = [frame for second, frame in _each_second(path) if second in wanted]
    if not frames:
        raise DataError(f"{path}: no frame could be decoded")
    return frames


def _seconds(path: Path) -> int:
    """Seconds that have a first frame; by the packets, nothing is decoded."""
    try:
        with av.open(path, metadata_errors="ignore") as container:
            stream = container.streams.video[0]
            times = [
                float(packet.pts * packet.time_base)
                for packet in container.demux(stream)
                if packet.pts is not None and packet.time_base is not None
            ]
    except (av.FFmpegError, IndexError, OSError) as error:
        raise DataError(f"{path}: {error}") from error
    return int(max(times) - min(times)) + 1 if times else 0


def _each_second(path: Path) -> Iterator[tuple[int, np.ndarray]]:
    """The first frame of each second; what is broken at the end is left."""
    last, start = -1, None
    try:
        with av.open(path, metadata_errors="ignore") as container:
            for frame in container.decode(video=0):
                start = frame.time if start is None else start
                second = int((frame.time or 0.0) - (start or 0.0))
                if second > last:
                    last = second
                    yield second, frame.to_ndarray(format="rgb24")
    except (av.FFmpegError, OSError):
        return
