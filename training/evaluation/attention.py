"""Pictures of where a model looks: PMD's attention, and SGMN's salience by what is said.

The first row has the product's picture and the clip's frames. Of attention, the second lays over
each frame how much the product's patches attend to its patches, the mean over them and over the
heads; each further row shows one patch of the product, framed: those whose attention is most
concentrated. Of salience, the second row is with the clip's own speech, the third with that of
another product, the last without: then no patch is more salient than another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.random import default_rng
from PIL import Image, ImageDraw
from torch import Tensor

from training.data.clip_index import evenly
from training.data.queries import QuerySet
from training.data.sets import JudgedSet
from training.data.spoken import spoken
from training.data.transforms import normalise
from training.evaluation.filming import shrink
from training.models.rice import Rice
from training.models.sgmn.model import Sgmn
from training.models.text import Texts

TILE, GAP = 168, 4
PATCHES_SHOWN = 3


class Example(NamedTuple):
    picture: Tensor  # of the product, uint8 [S,S,3]
    frames: Tensor  # uint8 [F,S,S,3]
    speech: str


def examples(data: JudgedSet, count: int, frames: int, size: int) -> Iterator[Example]:
    """Clips spread evenly over the data. Those of which a file is missing are left out; raises
    DataError for a broken one."""
    if isinstance(data, QuerySet):
        yield from _of_queries(data, count, frames, size)
        return
    clips, rng = data.clips(), default_rng(0)
    for clip in (clips[place] for place in evenly(len(clips), count)):
        shown = [clip[place] for place in evenly(len(clip), frames)]
        product = int(data.product[clip[0]])
        said = spoken(data.titles[product], data.titles, rng) if data.titles else ""
        yield Example(
            shrink(data.pictures[product][None], size)[0],
            shrink(data.photographs[shown], size),
            said,
        )


def _of_queries(data: QuerySet, count: int, frames: int, size: int) -> Iterator[Example]:
    for query in (data.queries[place] for place in evenly(len(data.queries), count)):
        own = [p for p in data.there(query.live_id) if p.image_id in query.truth]
        shown = data.read_frames(query, frames, size)
        if own and shown:
            yield Example(
                torch.from_numpy(data.read_picture(own[0].reference, size)),
                torch.from_numpy(np.stack([frame.pixels for frame in shown])),
                query.speech,
            )


@torch.inference_mode()
def attention_of_patches(model: Rice, picture: Tensor, frames: Tensor) -> Tensor:
    """uint8 [S,S,3] and [F,S,S,3] -> [P,F,P]: a product's patches over those of each frame.

    The mean over heads; what went to class tokens is left out.
    """
    frame_mask = torch.ones(1, len(frames), dtype=torch.bool)
    patch_mask = torch.ones(1, len(frames), model.config.encoder.patches, dtype=torch.bool)
    clip = model.eval().encode_clips(normalise(frames)[None], frame_mask, patch_mask)
    product = model.encode_pictures(normalise(picture)[None])
    attention = model.decoder(product.tokens, clip.tokens, clip.token_mask).attention[0]
    return attention.mean(dim=0).unflatten(1, (len(frames), -1))[1:, :, 1:]


def draw_attention(attention: Tensor, picture: Tensor, frames: Tensor) -> Image.Image:
    """`attention_of_patches` beside what it is of."""
    whole = attention.mean(dim=0)
    grid = round(attention.shape[0] ** 0.5)
    rows = [
        [_tile(picture), *map(_tile, frames)],
        [_tile(picture), *_heated(whole, frames)],
        *(
            [_framed(picture, patch, grid), *_heated(attention[patch], frames)]
            for patch in concentrated(attention)[:PATCHES_SHOWN]
        ),
    ]
    return _sheet(rows)


@torch.inference_mode()
def salience_of_patches(model: Sgmn, frames: Tensor, speech: Texts) -> Tensor:
    """uint8 [F,S,S,3] and one text -> [F,P], which sum to 1; even without speech.

    The model must have text-guided attention.
    """
    guidance, words = model.eval().text_guidance, model.read(speech)
    if guidance is None or words is None:
        raise ValueError("a model without text-guided attention has no salience")
    _, tokens = model.encode(normalise(frames))
    patches = tokens[None, :, 1:]
    every = torch.ones(patches.shape[:3], dtype=torch.bool)
    return guidance.salience(patches, every, words)[0]


def draw_salience(picture: Tensor, frames: Tensor, saliences: Sequence[Tensor]) -> Image.Image:
    """A row of `salience_of_patches` for each speech, below what they are of."""
    rows = [[_tile(picture), *map(_tile, frames)]]
    rows += [[_tile(picture), *_heated(salience, frames)] for salience in saliences]
    return _sheet(rows)


def concentrated(attention: Tensor) -> list[int]:
    """Patches of the product, [P,F,P], by the entropy of what they attend to, lowest first."""
    share = attention.flatten(1)
    share = share / share.sum(dim=1, keepdim=True)
    entropy: Tensor = -torch.xlogy(share, share).sum(dim=1)
    return entropy.argsort().tolist()


def _tile(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.numpy()).resize((TILE, TILE), Image.Resampling.BICUBIC)


def _framed(picture: Tensor, patch: int, grid: int) -> Image.Image:
    tile, side = _tile(picture), TILE / grid
    left, top = patch % grid * side, patch // grid * side
    ImageDraw.Draw(tile).rectangle((left, top, left + side, top + side), outline="red", width=3)
    return tile


def _heated(attention: Tensor, frames: Tensor) -> list[Image.Image]:
    """[F,P] over frames: dark where nothing is looked at, full where most is."""
    grid = round(attention.shape[1] ** 0.5)
    light = attention / attention.max()  # the clip's brightest patch, so that frames compare
    tiles = []
    for share, frame in zip(light, frames, strict=True):
        mask = Image.fromarray((255 * share.view(grid, grid)).byte().numpy())
        mask = mask.resize((TILE, TILE), Image.Resampling.BILINEAR)
        tile = _tile(frame)
        dark = tile.convert("L").point(lambda value: value // 4).convert("RGB")
        tiles.append(Image.composite(tile, dark, mask))
    return tiles


def _sheet(rows: list[list[Image.Image]]) -> Image.Image:
    step = TILE + GAP
    sheet = Image.new("RGB", (len(rows[0]) * step - GAP, len(rows) * step - GAP), "white")
    for down, row in enumerate(rows):
        for across, tile in enumerate(row):
            sheet.paste(tile, (across * step, down * step))
    return sheet
