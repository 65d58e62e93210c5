"""Pictures of the decoder's attention: what is drawn, of photographs and of queries."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.training.tiny import CONFIG, photographs, tiny_model
from tests.training.tiny_sgmn import (
    SGMN_CONFIG,
    TITLES,
    tiny_sgmn,
    tiny_tokenizer,
    titled_photographs,
)
from training.data.frames import Frame
from training.data.queries import QuerySet
from training.data.records import Query, ShopPicture
from training.evaluation.attention import (
    GAP,
    TILE,
    attention_of_patches,
    concentrated,
    draw_attention,
    draw_salience,
    examples,
    salience_of_patches,
)

SIZE, PATCHES, FRAMES = CONFIG.encoder.image_size, CONFIG.encoder.patches, CONFIG.frames


def test_attention_is_the_decoders_without_class_tokens() -> None:
    [(picture, frames, _)] = examples(photographs(), 1, FRAMES, SIZE)
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
        lambda query, count, size: [Frame(flat(9)) for _ in query.frames],
        lambda reference: reference != "3",
    )
    [(picture, frames, _)] = examples(data, 3, FRAMES, SIZE)
    assert picture.unique().tolist() == [2]
    assert frames.unique().tolist() == [9]
    assert len(frames) == 1


def test_salience_is_by_what_is_said_and_even_in_silence() -> None:
    model, read = tiny_sgmn(), tiny_tokenizer()
    example, other = examples(titled_photographs(), 2, FRAMES, SIZE)
    assert example.speech != other.speech
    own, others, none = (
        salience_of_patches(model, example.frames, read([said]))
        for said in (TITLES[0], TITLES[1], "")
    )
    assert own.shape == (len(example.frames), PATCHES)
    assert all(each.sum().item() == pytest.approx(1) for each in (own, others, none))
    assert (own - others).abs().max() > 1e-5
    assert torch.allclose(none, torch.tensor(1 / none.numel()))
    sheet = draw_salience(example.picture, example.frames, [own, others, none])
    step = TILE + GAP
    assert sheet.size == ((1 + len(example.frames)) * step - GAP, 4 * step - GAP)
    lit = np.array(sheet)[3 * step : 3 * step + TILE, step : step + TILE]
    as_it_is = np.array(sheet)[:TILE, step : step + TILE]
    assert np.array_equal(lit, as_it_is), "in silence all patches are as light"
    with pytest.raises(ValueError, match="no salience"):
        bare = tiny_sgmn(replace(SGMN_CONFIG, text_guidance=False))
        salience_of_patches(bare, example.frames, read([""]))


@pytest.mark.parametrize("count", [1, 4, 50])
def test_examples_are_spread_over_the_clips(count: int) -> None:
    assert len(list(examples(photographs(), count, FRAMES, SIZE))) == min(count, 10)
