"""Draws training batches: products of every source, their pictures, and clips of them.

A batch depends on the recipe's seed and the step alone, so a resumed run draws the same batches.
What must be read from a disk is read one batch ahead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

from training.configs import Recipe, Source
from training.data.clip_drawer import ClipDrawer
from training.data.clip_sets import ClipSet
from training.data.drawn import Drawn
from training.data.photograph_drawer import PhotographDrawer
from training.data.photographs import PhotographSet
from training.data.transforms import draw_views


@dataclass(frozen=True)
class Batch:
    """P products and N clips of them; a product is never there twice."""

    pictures: Tensor  # float [P,3,S,S]
    frames: Tensor  # float [N,F,3,S,S], zeros where padded
    frame_mask: Tensor  # bool [N,F]
    product: Tensor  # int64 [N], each clip's row in `pictures`
    patch_mask: Tensor | None = None  # bool [N,F,P]; None: all patches take part


class Drawer(Protocol):
    """Draws the share of a batch that comes from one source."""

    def draw(self, step: int, generator: Generator, tail_cut: float) -> Drawn: ...


class BatchDrawer:
    """Batches of a recipe over its sources' pictures."""

    def __init__(
        self, recipe: Recipe, data: Mapping[str, PhotographSet | ClipSet], device: torch.device
    ) -> None:
        self._recipe = recipe
        self._device = device
        self._drawers = [_drawer(source, data[source.name], recipe) for source in recipe.sources]
        self._frames = max(source.frames for source in recipe.sources)

    def draw(self, step: int) -> Batch:
        """Raises DataError."""
        return self._varied(*self._read(step))

    def batches(self, steps: range) -> Iterator[Batch]:
        """The same for each step; the next one is read while one is used. Raises DataError."""
        with ThreadPoolExecutor(1) as ahead:
            upcoming = [ahead.submit(self._read, step) for step in steps[:1]]
            for step in steps:
                read = upcoming.pop().result()
                if step + 1 in steps:
                    upcoming.append(ahead.submit(self._read, step + 1))
                yield self._varied(*read)

    def _read(self, step: int) -> tuple[list[Drawn], Generator]:
        generator = torch.Generator().manual_seed(self._recipe.seed * 1_000_003 + step)
        tail_cut = self._recipe.tail_cut
        return [drawer.draw(step, generator, tail_cut) for drawer in self._drawers], generator

    def _varied(self, shares: list[Drawn], generator: Generator) -> Batch:
        recipe, size = self._recipe, self._recipe.model.encoder.image_size
        product, offset = [], 0
        for share in shares:
            product += [offset + row for row in share.product]
            offset += len(share.pictures)
        frames = torch.cat([share.frames for share in shares]).to(self._device)
        views = draw_views(frames, size, recipe.frame_view, generator)
        lengths = torch.tensor([length for share in shares for length in share.lengths])
        frame_mask = (torch.arange(self._frames) < lengths[:, None]).to(self._device)
        padded = views.new_zeros(len(lengths), self._frames, *views.shape[1:])
        padded[frame_mask] = views
        pictures = torch.cat([share.pictures for share in shares]).to(self._device)
        return Batch(
            draw_views(pictures, size, recipe.picture_view, generator),
            padded,
            frame_mask,
            torch.tensor(product, device=self._device),
        )


def _drawer(source: Source, data: PhotographSet | ClipSet, recipe: Recipe) -> Drawer:
    if isinstance(data, PhotographSet):
        return PhotographDrawer(source, data)
    return ClipDrawer(source, data, recipe.seed)
