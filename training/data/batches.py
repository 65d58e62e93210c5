"""Draws training batches: products of every source, their pictures, and clips of them.

A batch depends on the recipe's seed and the step alone, so a resumed run draws the same batches.
Of several processes each draws its share of the recipe's batch.
What must be read from a disk is read one batch ahead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple, Protocol, TypedDict

import torch
from numpy.random import default_rng
from torch import Generator, Tensor
from torch.nn.functional import pad

from training.configs import AnyRecipe, DetectorRecipe, Source
from training.data.clip_drawer import ClipDrawer
from training.data.drawn import Drawn
from training.data.errors import DataError
from training.data.photograph_drawer import PhotographDrawer
from training.data.photographs import PhotographSet
from training.data.sets import TrainingSet
from training.data.talk import made_up_talk, pictured_talk, talk_of
from training.data.texts import heard
from training.data.tokenizing import TextTokenizer
from training.data.transforms import draw_views, draw_views_and_boxes
from training.distributed import Share
from training.models.intended_product import patch_mask
from training.models.padding import padded
from training.models.text import Texts
from training.seeds import seed_of

TALK = 1_000_000  # stream of random numbers, beyond those of sources and processes


@dataclass(frozen=True)
class Batch:
    """P products and N clips of them; a product is never there twice."""

    pictures: Tensor  # float [P,3,S,S]; a detector's batch has none, [0,3,S,S]
    frames: Tensor  # float [N,F,3,S,S], zeros where padded
    frame_mask: Tensor  # bool [N,F]
    product: Tensor  # int64 [N], each clip's row in `pictures`
    identity: Tensor  # int64 [P,2], source and product: processes may have drawn the same
    boxes: Tensor
    """Of the intended product, float [N,F,K,4]: left, top, right, bottom, as shares of the frame;
    all zeros: none."""
    annotated: Tensor  # bool [N,F]: somebody has said what the frame shows
    patch_mask: Tensor | None = None  # bool [N,F,P]; None: all patches take part
    titles: Texts | None = None  # of P products; None: the recipe's model reads no text
    speech: Texts | None = None  # of N clips
    wrong_speech: Tensor | None = None  # bool [N], where a clip has another product's speech
    talk: tuple[Texts, Texts] | None = None  # titles and speech without clips, pair by pair
    talk_pictures: Tensor | None = None  # float [M,3,S,S], of the first M of these pairs


class _OfTexts(TypedDict, total=False):
    titles: Texts
    speech: Texts
    wrong_speech: Tensor
    talk: tuple[Texts, Texts]
    talk_pictures: Tensor


class _Talk(NamedTuple):
    titles: list[str]
    said: list[str]
    pictures: Tensor | None  # uint8 [M,S,S,3], of the first M


class _Read(NamedTuple):
    """Of one step, before pictures are varied and texts are tokenized."""

    shares: list[Drawn]
    generator: Generator
    talk: _Talk | None


class Drawer(Protocol):
    """Draws the share of a batch that comes from one source."""

    def draw(self, step: int, generator: Generator, tail_cut: float) -> Drawn: ...


class BatchDrawer:
    """Batches of a recipe over its sources' pictures."""

    def __init__(
        self,
        recipe: AnyRecipe,
        data: Mapping[str, TrainingSet],
        device: torch.device,
        share: Share | None = None,
        tokenizer: TextTokenizer | None = None,
    ) -> None:
        """Raises DataError where a source cannot be shared out evenly. Without `tokenizer`, batches
        have no text."""
        self._recipe = recipe
        self._device = device
        self._share = share or Share()
        self._tokenizer = tokenizer
        self._drawers = [
            _drawer(source, data[source.name], recipe, self._share) for source in recipe.sources
        ]
        self._frames = max(source.frames for source in recipe.sources)
        self._titles = [
            source.titles
            for source in data.values()
            if isinstance(source, PhotographSet) and source.titles
        ]
        self._kept: dict[int, Batch] = {}  # of a cycle, without texts

    def draw(self, step: int) -> Batch:
        """Raises DataError."""
        return self._varied(step, self._read(step))

    def batches(self, steps: range) -> Iterator[Batch]:
        """The same for each step; the next one is read while one is used. Raises DataError."""
        with ThreadPoolExecutor(1) as ahead:
            upcoming = [ahead.submit(self._read, step) for step in steps[:1]]
            for step in steps:
                read = upcoming.pop().result()
                if step + 1 in steps:
                    upcoming.append(ahead.submit(self._read, step + 1))
                yield self._varied(step, read)

    def _read(self, step: int) -> _Read:
        shares, generator = self._drawn(step)
        return _Read(shares, generator, self._talk(step, shares[0].frames.shape[1]))

    def _drawn(self, step: int) -> tuple[list[Drawn], Generator]:
        generator, tail_cut, shown = torch.Generator(), self._recipe.tail_cut, self._shown(step)
        if self._share.ranks == 1:
            generator.manual_seed(self._seed(shown))
            return [drawer.draw(step, generator, tail_cut) for drawer in self._drawers], generator
        shares = [
            drawer.draw(step, generator.manual_seed(self._seed(shown, source)), tail_cut)
            for source, drawer in enumerate(self._drawers)  # alike on all processes
        ]
        views = len(self._drawers) + self._share.rank
        return shares, generator.manual_seed(self._seed(shown, views))

    def _shown(self, step: int) -> int:
        """The step whose pictures are shown."""
        cycle = None if isinstance(self._recipe, DetectorRecipe) else self._recipe.cycle
        return step if cycle is None else step % cycle

    def _seed(self, step: int, stream: int = 0) -> int:
        return seed_of(self._recipe.seed, step, stream)

    def _talk(self, step: int, size: int) -> _Talk | None:
        """Pictures, where there are any, have sides of `size`."""
        recipe = self._recipe
        if self._tokenizer is None or isinstance(recipe, DetectorRecipe) or not recipe.talk:
            return None
        rng, pictures = default_rng([recipe.seed, step, 4, self._share.rank]), None
        if recipe.pictured_talk:
            drawn, made_up = pictured_talk(recipe.talk, size, rng)
            pictures = torch.from_numpy(drawn)
        else:
            made_up = made_up_talk(recipe.talk, rng)
        shops = [made_up, *(talk_of(titles, recipe.talk, rng) for titles in self._titles)]
        titles, said = (list(chain.from_iterable(part)) for part in zip(*shops, strict=True))
        return _Talk(titles, said, pictures)

    def _varied(self, step: int, read: _Read) -> Batch:
        shown = self._shown(step)
        batch = self._kept.get(shown) or self._pictured(read.shares, read.generator)
        if not isinstance(self._recipe, DetectorRecipe) and self._recipe.cycle is not None:
            self._kept[shown] = batch
        return replace(batch, **self._texts(step, read))

    def _pictured(self, shares: list[Drawn], generator: Generator) -> Batch:
        recipe, size = self._recipe, self._recipe.image_size
        product, offset = [], 0
        for share in shares:
            product += [offset + row for row in share.product]
            offset += len(share.identity)
        identity = [(s, one) for s, share in enumerate(shares) for one in share.identity]
        frames = torch.cat([share.frames for share in shares]).to(self._device)
        shown = _stacked([share.boxes for share in shares]).to(self._device)
        views, shown = draw_views_and_boxes(frames, shown, size, recipe.frame_view, generator)
        lengths = torch.tensor([length for share in shares for length in share.lengths])
        frame_mask = (torch.arange(self._frames) < lengths[:, None]).to(self._device)
        boxes = padded(shown, frame_mask)
        annotated = torch.cat([share.annotated for share in shares]).to(self._device)
        pictures = torch.cat([share.pictures for share in shares]).to(self._device)
        return Batch(
            draw_views(pictures, size, recipe.picture_view, generator),
            padded(views, frame_mask),
            frame_mask,
            torch.tensor(product, device=self._device),
            torch.tensor(identity, device=self._device),
            boxes,
            padded(annotated, frame_mask),
            _kept_patches(boxes, recipe, generator),
        )

    def _texts(self, step: int, read: _Read) -> _OfTexts:
        if self._tokenizer is None or isinstance(self._recipe, DetectorRecipe):
            return {}
        rng = default_rng([self._recipe.seed, step, 3, self._share.rank])
        found = heard(read.shares, self._recipe, rng)
        texts: _OfTexts = {
            "titles": self._tokenized(self._tokenizer, found.titles),
            "speech": self._tokenized(self._tokenizer, found.speech),
            "wrong_speech": torch.tensor(found.wrong, device=self._device),
        }
        if read.talk is not None:
            texts["talk"] = (
                self._tokenized(self._tokenizer, read.talk.titles),
                self._tokenized(self._tokenizer, read.talk.said),
            )
            if read.talk.pictures is not None:
                texts["talk_pictures"] = self._talk_views(step, read.talk.pictures)
        return texts

    def _talk_views(self, step: int, pictures: Tensor) -> Tensor:
        """Varied as frames are."""
        generator = torch.Generator().manual_seed(self._seed(step, TALK + self._share.rank))
        recipe = self._recipe
        pictures = pictures.to(self._device)
        return draw_views(pictures, recipe.image_size, recipe.frame_view, generator)

    def _tokenized(self, tokenizer: TextTokenizer, texts: list[str]) -> Texts:
        ids, mask = tokenizer(texts)
        return Texts(ids.to(self._device), mask.to(self._device))


def _stacked(boxes: list[Tensor]) -> Tensor:
    """[M,K,4] of each source -> of all, with the largest K."""
    most = max(part.shape[1] for part in boxes)
    return torch.cat([pad(part, (0, 0, 0, most - part.shape[1])) for part in boxes])


def _kept_patches(boxes: Tensor, recipe: AnyRecipe, generator: Generator) -> Tensor | None:
    """Of boxes [N,F,K,4] as a detector would give them: a little off, and in some frames none."""
    if isinstance(recipe, DetectorRecipe) or not recipe.intended_boxes:
        return None
    sides = (boxes[..., 2:] - boxes[..., :2]).repeat(1, 1, 1, 2)
    off = torch.randn(boxes.shape, generator=generator).to(boxes.device)
    found = torch.rand(boxes.shape[:2], generator=generator) >= recipe.missed_boxes
    found = found[..., None, None].to(boxes.device)
    return patch_mask((boxes + recipe.box_noise * sides * off) * found, recipe.model.encoder.grid)


def _drawer(source: Source, data: TrainingSet, recipe: AnyRecipe, share: Share) -> Drawer:
    if source.products % share.ranks:
        raise DataError(
            f"source {source.name}: {source.products} products a batch cannot be shared out "
            f"evenly among {share.ranks} processes"
        )
    if isinstance(data, PhotographSet):
        return PhotographDrawer(source, data, recipe.seed, share)
    pictures = not isinstance(recipe, DetectorRecipe)
    return ClipDrawer(source, data, recipe.seed, share, pictures=pictures)
