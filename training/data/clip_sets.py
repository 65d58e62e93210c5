"""Clips that are read when a batch needs them: of LPR4M's layouts and of MovingFashion.

A set knows which clips show the same product, and reads a clip's frames and its product's picture,
as squares by the manifest's preprocessing. What cannot be read is a DataError.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from training.data.clip_index import evenly, held_out
from training.data.errors import DataError
from training.data.frames import Frame, fit_frame
from training.data.lpr4m import LprData
from training.data.movingfashion import MovingFashion, read_frames
from training.data.photographs import fit_picture, fit_square, read_picture
from training.data.pictures import Pictures
from training.data.queries import QuerySet
from training.data.records import Clip, Query, ShopPicture
from training.data.shards import hash_of
from training.data.wrong_lines import DEFAULT_LIMIT, WrongLines

logger = logging.getLogger(__name__)

HELD_OUT = 0.01  # of the livestreams, or products, that training leaves to validation
VAL_SHOPS, VAL_QUERIES = 10, 1_000  # at most: validation is done often
VAL_SHOP = 600  # pictures, as many as a shop of LPR4M's test has


class ClipSet(Protocol):
    """N clips."""

    size: int
    """Sides of the squares that are read, pixels."""
    wrong: WrongLines
    """Where clips that cannot be read are counted."""

    def __len__(self) -> int: ...

    @property
    def product(self) -> np.ndarray:
        """uint64 [N], equal where clips show the same product."""

    def picture(self, clip: int) -> np.ndarray:
        """The product's picture, uint8 [S,S,3]."""

    def frames(self, clip: int, choose: Choose) -> list[Frame]:
        """Frames in time."""

    def texts(self, clip: int) -> tuple[str, str]:
        """Title of the product and speech of the clip, "" where there is none."""

    def place(self, clip: int) -> tuple[Path, int]:
        """File and line that tell of it, for messages."""


class Choose(Protocol):
    """Chooses frames: how many there are -> positions in order."""

    def __call__(self, count: int, /) -> list[int]: ...


class LprClips:
    """Training clips of an LPR4M layout, but for the livestreams of its validation."""

    def __init__(self, data: LprData, size: int) -> None:
        self.size = size
        self.wrong = WrongLines(data.wrong.limit)
        self._data = data
        self._rows = np.flatnonzero(~held_out(data.clips.live, HELD_OUT))
        self.product: np.ndarray = data.clips.product[self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def picture(self, clip: int) -> np.ndarray:
        reference = self._data.clips[self._rows[clip]].image
        return fit_picture(self._data.pictures.read(reference), reference, self.size)

    def frames(self, clip: int, choose: Choose) -> list[Frame]:
        told = self._data.clips[self._rows[clip]]
        there = _there(self._data.pictures, told)
        if not there:
            raise DataError(f"none of the clip's {len(told.frames)} frames is there")
        chosen = (there[position] for position in choose(len(there)))
        return [_frame(self._data.pictures, told, place, self.size) for place in chosen]

    def texts(self, clip: int) -> tuple[str, str]:
        told = self._data.clips[self._rows[clip]]
        return told.title, told.speech

    def place(self, clip: int) -> tuple[Path, int]:
        return self._data.clips.place(self._rows[clip])


class MovingFashionClips:
    """Training videos of MovingFashion, but for the products of its validation."""

    def __init__(self, data: MovingFashion, size: int, limit: int = DEFAULT_LIMIT) -> None:
        self.size = size
        self.wrong = WrongLines(limit)
        self._data = data
        products = _hashed(data.products)
        kept = ~held_out(products, HELD_OUT)
        self._videos = [video for video in data.videos if kept[video.product]]
        self.product: np.ndarray = products[[video.product for video in self._videos]]

    def __len__(self) -> int:
        return len(self._videos)

    def picture(self, clip: int) -> np.ndarray:
        return read_picture(self._data.pictures[self._videos[clip].product], self.size)

    def frames(self, clip: int, choose: Choose) -> list[Frame]:
        return squares(read_frames(self._videos[clip].path, choose), self.size)

    def texts(self, clip: int) -> tuple[str, str]:
        return "", ""  # the data set has none

    def place(self, clip: int) -> tuple[Path, int]:
        return self._videos[clip].path, 0


def squares(frames: Sequence[np.ndarray], size: int) -> list[Frame]:
    return [Frame(fit_square(Image.fromarray(frame), size)) for frame in frames]


# Queries: of the test as it comes, and of what training leaves out.


def lpr_test(data: LprData) -> QuerySet:
    titles = data.test.titles
    galleries = {
        live: [picture._replace(title=titles.get(picture.image_id, "")) for picture in shop]
        for live, shop in data.test.galleries.items()
    }
    return QuerySet(
        data.test.queries,
        galleries,
        partial(_picture, data.pictures),
        partial(_frames, data.pictures),
        data.pictures.__contains__,
    )


def lpr_validation(data: LprData) -> QuerySet:
    """Clips of held-out livestreams, of products that training never sees (`_unseen`). The shop of
    each is the pictures that its clips sell, filled up with those of the others to the several
    hundred that a shop of the test has, where there are so many: what only tells ten products apart
    would look good otherwise. Pictures of training do not fill it up: what a model knows by heart
    is easily told from what is new."""
    held = _unseen(data)
    lives = np.unique(data.clips.live[held])[:VAL_SHOPS]
    rows = np.flatnonzero(held & np.isin(data.clips.live, lives))
    clips = [data.clips[row] for row in rows[evenly(len(rows), VAL_QUERIES)]]
    clips = [clip for clip in clips if clip.image in data.pictures]
    sold: dict[str, dict[str, Clip]] = {}
    for clip in clips:
        sold.setdefault(clip.live_id, {})[clip.image_id] = clip
    others = _others(data, np.flatnonzero(held))
    shops = {live: _filled_up(shop, others) for live, shop in sold.items()}
    queries = [
        Query(
            c.clip_id, c.live_id, c.frames, _pictures_of(c, shops[c.live_id]), c.boxes, c.speech,
            scale=c.scale, duration=c.duration, products=c.products, category=c.category,
        )
        for c in clips
    ]  # fmt: skip
    return QuerySet(
        queries,
        {
            live: [ShopPicture(clip.image_id, clip.image, clip.title) for clip in shop]
            for live, shop in shops.items()
        },
        partial(_picture, data.pictures),
        partial(_frames, data.pictures),
        data.pictures.__contains__,
    )


def _unseen(data: LprData) -> np.ndarray:
    """Bool [N], held-out clips whose product no clip of training shows. Where these are fewer than
    half, all that are held out: few clips choose badly, too."""
    held, product = held_out(data.clips.live, HELD_OUT), data.clips.product
    unseen = held & ~np.isin(product, product[~held])
    enough = 2 * unseen.sum() >= held.sum()
    logger.log(
        logging.INFO if enough else logging.WARNING,
        "validation: %d of %d held-out clips show products that training never sees; %s",
        unseen.sum(), held.sum(), "it is of these" if enough else "it is of all",
    )  # fmt: skip
    return unseen if enough else held


def _pictures_of(clip: Clip, shop: list[Clip]) -> tuple[str, ...]:
    """Image ids of the clip's product: a shop may show it in several."""
    return tuple(other.image_id for other in shop if other.product_id == clip.product_id)


def _filled_up(shop: dict[str, Clip], others: dict[str, Clip]) -> list[Clip]:
    further = [clip for image, clip in others.items() if image not in shop]
    return [*shop.values(), *further[: max(0, VAL_SHOP - len(shop))]]


def _others(data: LprData, rows: np.ndarray) -> dict[str, Clip]:
    """Clips of up to VAL_SHOP of the rows' products, by image id."""
    _, first = np.unique(data.clips.product[rows], return_index=True)
    chosen = rows[np.sort(first)][evenly(len(first), VAL_SHOP)]
    clips = (data.clips[row] for row in chosen)
    return {clip.image_id: clip for clip in clips}


def movingfashion_queries(data: MovingFashion, *, validation: bool) -> QuerySet:
    """All videos against all products; of training's products, those that are held out."""
    kept = np.ones(len(data.products), bool)
    if validation:
        kept = held_out(_hashed(data.products), HELD_OUT)
    shop = [
        ShopPicture(product, str(picture))
        for product, picture, chosen in zip(data.products, data.pictures, kept, strict=True)
        if chosen
    ]
    queries = [
        Query(str(video.path), "shop", (str(video.path),), (data.products[video.product],))
        for video in data.videos
        if kept[video.product]
    ]
    return QuerySet(queries, {"shop": shop}, _picture_file, _video_frames, _is_file)


def _picture(pictures: Pictures, reference: str, size: int) -> np.ndarray:
    return fit_picture(pictures.read(reference), reference, size)


def _frames(pictures: Pictures, query: Query, count: int, size: int) -> list[Frame]:
    there, frames = _there(pictures, query), []
    for place in evenly(len(there), count):
        try:
            frames.append(_frame(pictures, query, there[place], size))
        except DataError as error:
            logger.warning("left out: %s", error)
    return frames


def _there(pictures: Pictures, clip: Clip | Query) -> list[int]:
    """Places of the clip's frames that are not missing."""
    return [place for place, name in enumerate(clip.frames) if name in pictures]


def _frame(pictures: Pictures, clip: Clip | Query, place: int, size: int) -> Frame:
    """Of a clip that has boxes, a frame without one shows nothing of the product."""
    name = clip.frames[place]
    boxes = clip.boxes[place] if clip.boxes else None
    return fit_frame(pictures.read(name), name, boxes, pictures.original_size(name), size)


def _picture_file(reference: str, size: int) -> np.ndarray:
    return read_picture(Path(reference), size)


def _is_file(reference: str) -> bool:
    return Path(reference).is_file()


def _video_frames(query: Query, count: int, size: int) -> list[Frame]:
    try:
        frames = read_frames(Path(query.frames[0]), partial(evenly, wanted=count))
    except DataError as error:
        logger.warning("left out: %s", error)
        return []
    return squares(frames, size)


def _hashed(names: list[str]) -> np.ndarray:
    return np.array([hash_of(name) for name in names], np.uint64)
