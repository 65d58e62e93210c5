"""Draws training batches: products of every source, their pictures, and clips of photographs.

A batch depends on the recipe's seed and the step alone, so a resumed run draws the same batches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from training.configs import Recipe, Source
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


class BatchDrawer:
    """Batches of a recipe over its sources' pictures."""

    def __init__(self, recipe: Recipe, data: dict[str, PhotographSet], device: torch.device):
        self._recipe = recipe
        self._device = device
        self._sources = [_ClipDrawer(source, data[source.name]) for source in recipe.sources]
        self._frames = max(source.frames for source in recipe.sources)

    def draw(self, step: int) -> Batch:
        recipe, size = self._recipe, self._recipe.model.encoder.image_size
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
        pictures, photographs, lengths, product = [], [], [], []
        offset = 0
        for source in self._sources:
            chosen, clips = source.draw(generator, recipe.tail_cut)
            pictures.append(source.data.pictures[chosen])
            for row, clip in clips:
                photographs.append(source.data.photographs[clip])
                lengths.append(len(clip))
                product.append(offset + row)
            offset += len(chosen)
        views = draw_views(
            torch.cat(photographs).to(self._device), size, recipe.frame_view, generator
        )
        frame_mask = torch.arange(self._frames) < torch.tensor(lengths)[:, None]
        frame_mask = frame_mask.to(self._device)
        frames = views.new_zeros(len(lengths), self._frames, *views.shape[1:])
        frames[frame_mask] = views
        return Batch(
            draw_views(torch.cat(pictures).to(self._device), size, recipe.picture_view, generator),
            frames,
            frame_mask,
            torch.tensor(product, device=self._device),
        )


class _ClipDrawer:
    """Draws products of one source and clips of each."""

    def __init__(self, source: Source, data: PhotographSet) -> None:
        self.source = source
        self.data = data
        self._clips: dict[int, list[list[int]]] = {}
        for clip in data.clips():
            self._clips.setdefault(int(data.product[clip[0]]), []).append(clip)
        self._products = torch.tensor(sorted(self._clips))

    def draw(
        self, generator: Generator, tail_cut: float
    ) -> tuple[Tensor, list[tuple[int, list[int]]]]:
        """The products drawn, and clips as (row among them, photographs)."""
        order = torch.randperm(len(self._products), generator=generator)
        chosen = self._products[order[: self.source.products]]
        clips = [
            (row, self._clip(product, generator, tail_cut))
            for row, product in enumerate(chosen.tolist())
            for _ in range(self.source.clips_per_product)
        ]
        return chosen, clips

    def _clip(self, product: int, generator: Generator, tail_cut: float) -> list[int]:
        """Photographs of one clip in order; with probability `tail_cut` only the first of them.

        A clip with fewer photographs than frames shows some of them again.
        """
        candidates = self._clips[product]
        photographs = candidates[_below(len(candidates), generator)]
        shown = torch.randperm(len(photographs), generator=generator)[: self.source.frames].tolist()
        while len(shown) < self.source.frames:
            shown.append(_below(len(photographs), generator))
        length = self.source.frames
        if torch.rand((), generator=generator) < tail_cut:
            length = 1 + _below(length, generator)
        return [photographs[position] for position in sorted(shown)[:length]]


def _below(limit: int, generator: Generator) -> int:
    return int(torch.randint(limit, (), generator=generator))
