"""Pictures of the decoder's attention: what is drawn, of photographs and of queries."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.training.tiny import CONFIG, photographs, tiny_model
from training.data.queries import QuerySet
from training.data.records import Query, ShopPicture
from training.evaluation.attention import (
    GAP,
    TILE,
    attention_of_patches,
    concentrated,
    draw_attention,
    examples,
)

SIZE, PATCHES, FRAMES = CONFIG.encoder.image_size, CONFIG.encoder.patches, CONFIG.frames


def test_attention_is_the_decoders_without_class_tokens() -> None:
    [(picture, frames)] = examples(photographs(), 1, FRAMES, SIZE)
    attention = attention_of_patches(tiny_model(), picture, frames)
    assert attention.shape == (PATCHES, len(frames), PATCHES)
    of_patches = attention.flatten(1).sum(dim=1)
    assert ((of_patches > 0) & (of_patches < 1)).all(), "the rest went to class tokens"


def test_what_is_looked_at_is_light_and_the_rest_dark() -> None:
    attention = torch.full((PATCHES, 2, PATCHES), 1e-3)
    attention[5, 1, 0] = 0.9  # the product's patch 5 looks at the second frame's upper left corner
    assert concentrated(attention)[0] == 5
    frames = torch.full((2, SIZE, SIZE, 3), 200, dtype=torch.uint8)
    sheet = np.array(draw_attention(attention, frames[0], frames))
    step = TILE + GAP
    assert sheet.shape == (5 * step - GAP, 3 * step - GAP, 3)
    of_patch = sheet[2 * step :]
    assert (of_patch[8, 2 * step + 8] > 190).all()
    assert (of_patch[TILE - 8, 2 * step + TILE - 8] < 60).all()
    assert (of_patch[8, step + 8] < 60).all()
    side = TILE // 4
    red = (of_patch[:TILE, :TILE] == (255, 0, 0)).all(axis=-1)
    down, across = np.nonzero(red)
    assert (down.min() // side, across.min() // side) == (1, 1), "patch 5 of 4 x 4 is framed"


def test_queries_are_shown_with_a_right_picture_and_without_what_is_missing() -> None:
    def flat(value: int) -> np.ndarray:
        return np.full((SIZE, SIZE, 3), value, np.uint8)

    shop = [ShopPicture("wrong", "1"), ShopPicture("right", "2"), ShopPicture("gone", "3")]
    seen = Query("a", "live", ("f",), ("right",))
    data = QuerySet(
        [seen, replace(seen, truth=("gone",)), replace(seen, frames=())],
        {"live": shop},
        lambda reference, size: flat(int(reference)),
        lambda query, count, size: [flat(9) for _ in query.frames],
        lambda reference: reference != "3",
    )
    [(picture, frames)] = examples(data, 3, FRAMES, SIZE)
    assert picture.unique().tolist() == [2]
    assert frames.unique().tolist() == [9]
    assert len(frames) == 1


@pytest.mark.parametrize("count", [1, 4, 50])
def test_examples_are_spread_over_the_clips(count: int) -> None:
    assert len(list(examples(photographs(), count, FRAMES, SIZE))) == min(count, 10)
