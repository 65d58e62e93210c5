"""Draws clips of a set in shuffled order, and reads them with several threads.

Clips are drawn as the paper does, each once a pass, so products that are sold more are drawn more;
clips of one batch that show the same product share its picture. A clip that cannot be read is left
out of its batch, told, and counted against the set's limit, or a share of those that were drawn.
"""

from __future__ import annotations

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.random import default_rng
from torch import Generator, Tensor

from training.configs import Source
from training.data.clip_sets import ClipSet
from training.data.drawn import Drawn, cut_length
from training.data.errors import DataError
from training.data.frames import Frame, box_tensors
from training.data.order import ShuffledOrder
from training.distributed import Share

logger = logging.getLogger(__name__)

THREADS = min(32, os.cpu_count() or 1)  # decoding and resizing let go of Python's lock


@dataclass(frozen=True)
class _Read:
    product: int  # the set's
    picture: np.ndarray | None  # uint8 [S,S,3]
    frames: list[Frame]
    title: str
    speech: str


class ClipDrawer:
    """A draw is of `source.products` clips in the order, with `clips_per_product` - 1 others of
    each one's product, where there are any; or the share of one process of that."""

    def __init__(
        self,
        source: Source,
        data: ClipSet,
        seed: int,
        share: Share | None = None,
        *,
        pictures: bool = True,
    ) -> None:
        """Without `pictures` those of the products are neither read nor drawn."""
        self._source = source
        self._pictures = pictures
        self._data = data
        self._seed = seed
        self._share = share or Share()
        self._drawn = 0
        self._order = ShuffledOrder(len(data), seed)
        self._by_product = np.argsort(data.product, kind="stable")
        self._sorted = data.product[self._by_product]
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="read-clip")

    def draw(self, step: int, generator: Generator, tail_cut: float) -> Drawn:
        clips = self._chosen(step)
        self._drawn = min(self._drawn + len(clips), len(self._data))
        lengths = [cut_length(self._source.frames, tail_cut, generator) for _ in clips]
        read = self._threads.map(partial(self._read, step), clips, lengths)
        found = [clip for clip in read if clip is not None]
        if not found:
            raise DataError(f"step {step}: none of its {len(clips)} clips can be read")
        products = list(dict.fromkeys(clip.product for clip in found))
        row = {product: place for place, product in enumerate(products)}
        picture = {clip.product: clip.picture for clip in found if clip.picture is not None}
        title = {clip.product: clip.title for clip in found}
        frames = [frame for clip in found for frame in clip.frames]
        return Drawn(
            self._stacked([picture[product] for product in products if product in picture]),
            torch.from_numpy(np.stack([frame.pixels for frame in frames])),
            [len(clip.frames) for clip in found],
            [row[clip.product] for clip in found],
            np.array(products, np.uint64).view(np.int64).tolist(),
            [title[product] for product in products],
            [clip.speech for clip in found],
            *box_tensors(frames),
        )

    def _stacked(self, pictures: list[np.ndarray]) -> Tensor:
        size = self._data.size
        return torch.from_numpy(np.array(pictures, np.uint8).reshape(-1, size, size, 3))

    def _chosen(self, step: int) -> list[int]:
        rank, ranks = self._share.rank, self._share.ranks
        clips = self._order.share(step, self._source.products // ranks, rank, ranks).tolist()
        rng = default_rng([self._seed, step, 1])
        others = self._source.clips_per_product - 1
        further = [int(other) for clip in clips for other in self._siblings(clip, others, rng)]
        return list(dict.fromkeys(clips + further))

    def _siblings(self, clip: int, count: int, rng: np.random.Generator) -> np.ndarray:
        """Other clips of the same product, at most `count`."""
        product = self._data.product[clip]
        low = np.searchsorted(self._sorted, product)
        high = np.searchsorted(self._sorted, product, side="right")
        same = self._by_product[low:high]
        return rng.permutation(same[same != clip])[:count]

    def _read(self, step: int, clip: int, length: int) -> _Read | None:
        choose = partial(_stretches, self._source.frames, default_rng([self._seed, step, 2, clip]))
        try:
            picture = self._data.picture(clip) if self._pictures else None
            frames = self._data.frames(clip, lambda count: choose(count)[:length])
            texts = self._data.texts(clip)
        except DataError as error:
            file, line = self._data.place(clip)
            logger.warning("left out: %s:%d: %s", file, line, error)
            self._data.wrong.add(file, line, str(error), drawn=self._drawn)
            return None
        return _Read(int(self._data.product[clip]), picture, frames, *texts)


def _stretches(wanted: int, rng: np.random.Generator, count: int) -> list[int]:
    """One position at random in each of `wanted` equal stretches of `count` (temporal segments:
    Wang et al., 2016); all positions where there are no more than that."""
    if count <= wanted:
        return list(range(count))
    edges = np.linspace(0, count, wanted + 1)
    return [int(at) for at in rng.uniform(edges[:-1], edges[1:])]
