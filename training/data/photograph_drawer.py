"""Draws products of a source of photographs, and clips of each: photographs stand for frames."""

from __future__ import annotations

import torch
from numpy.random import default_rng
from torch import Generator

from training.configs import Source
from training.data.drawn import Drawn, below, cut_length
from training.data.photographs import PhotographSet
from training.data.spoken import spoken
from training.distributed import Share


class PhotographDrawer:
    """Draws the products of the whole batch, and of them the share of one process."""

    def __init__(self, source: Source, data: PhotographSet, seed: int, share: Share) -> None:
        self._source = source
        self._seed = seed
        self._titles = data.titles or [""] * len(data.names)
        self._data = data
        self._share = share
        self._clips: dict[int, list[list[int]]] = {}
        for clip in data.clips():
            self._clips.setdefault(int(data.product[clip[0]]), []).append(clip)
        self._products = torch.tensor(sorted(self._clips))

    def draw(self, step: int, generator: Generator, tail_cut: float) -> Drawn:
        order = torch.randperm(len(self._products), generator=generator)
        whole = self._products[order[: self._source.products]]
        chosen = whole[self._share.rank :: self._share.ranks]
        clips = [
            (row, self._clip(product, generator, tail_cut))
            for row, product in enumerate(chosen.tolist())
            for _ in range(self._source.clips_per_product)
        ]
        shown = [photograph for _, clip in clips for photograph in clip]
        titles = [self._titles[product] for product in chosen.tolist()]
        rng = default_rng([self._seed, step, 4, self._share.rank])
        return Drawn(
            self._data.pictures[chosen],
            self._data.photographs[shown],
            [len(clip) for _, clip in clips],
            [row for row, _ in clips],
            chosen.tolist(),
            titles,
            [spoken(titles[row], self._titles, rng) for row, _ in clips],
            torch.zeros(len(shown), 0, 4),
            torch.zeros(len(shown), dtype=torch.bool),
        )

    def _clip(self, product: int, generator: Generator, tail_cut: float) -> list[int]:
        """Photographs of one clip in order, perhaps cut short.

        A clip with fewer photographs than frames shows some of them again.
        """
        candidates = self._clips[product]
        photographs = candidates[below(len(candidates), generator)]
        frames = self._source.frames
        shown = torch.randperm(len(photographs), generator=generator)[:frames].tolist()
        while len(shown) < frames:
            shown.append(below(len(photographs), generator))
        length = cut_length(frames, tail_cut, generator)
        return [photographs[position] for position in sorted(shown)[:length]]
