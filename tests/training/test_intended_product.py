"""IPD's patch masks: which patches a box keeps, and that what is left out has no say anywhere."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.training.tiny import CONFIG, RECIPE, photographs, tiny_model
from training import objective
from training.data.batches import BatchDrawer
from training.models.intended_product import patch_mask
from training.models.rice import Rice

GRID = 7  # ViT-B/32 at 224


def mask_of(*boxes: tuple[float, float, float, float], grid: int = GRID) -> torch.Tensor:
    return patch_mask(torch.tensor(boxes), grid).view(grid, grid)


def iou(box: tuple[float, float, float, float], row: int, column: int) -> float:
    """Of a patch and a box, in pixels, the slow way."""
    left, top, right, bottom = (224 * side for side in box)
    across = min(right, 32 * column + 32) - max(left, 32 * column)
    down = min(bottom, 32 * row + 32) - max(top, 32 * row)
    inside = max(across, 0) * max(down, 0)
    return inside / (32 * 32 + (right - left) * (bottom - top) - inside)


@pytest.mark.parametrize(
    "box", [(0.1, 0.2, 0.5, 0.9), (0.3, 0.3, 0.45, 0.4), (0.0, 0.55, 0.31, 1.0)]
)
def test_patches_are_kept_by_their_iou_with_the_box(box: tuple[float, ...]) -> None:
    left, top, right, bottom = box
    expected = [
        [iou((left, top, right, bottom), row, column) >= 0.02 for column in range(GRID)]
        for row in range(GRID)
    ]
    found = mask_of((left, top, right, bottom)).tolist()
    assert found == expected
    assert 0 < sum(map(sum, found)) < GRID**2


def test_rows_go_from_the_top_and_several_boxes_add_up() -> None:
    top_right = mask_of((6 / 7, 0.0, 1.0, 1 / 7))
    assert top_right.nonzero().tolist() == [[0, 6]]
    both = mask_of((6 / 7, 0.0, 1.0, 1 / 7), (0.0, 6 / 7, 1 / 7, 1.0), (0.0, 0.0, 0.0, 0.0))
    assert both.nonzero().tolist() == [[0, 6], [6, 0]]


@pytest.mark.parametrize(
    "box",
    [
        (0.0, 0.0, 0.0, 0.0),  # none
        (0.5, 0.5, 0.501, 0.501),  # a speck: no patch reaches the IoU
        (0.0, 0.0, 1.0, 1.0),  # everything: 1/49 of the union is just enough
        (0.6, 0.6, 0.2, 0.2),  # the wrong way round
        (1.2, 0.1, 1.5, 0.4),  # outside, as after a crop
    ],
)
def test_all_patches_are_kept_when_none_qualifies(box: tuple[float, float, float, float]) -> None:
    assert mask_of(box).all()


def test_a_box_counts_as_far_as_it_is_seen() -> None:
    assert torch.equal(mask_of((-0.4, 0.2, 0.3, 0.6)), mask_of((0.0, 0.2, 0.3, 0.6)))


def test_frames_have_their_own_boxes() -> None:
    boxes = torch.rand(2, 3, 4, 4)
    masks = patch_mask(boxes, GRID)
    assert masks.shape == (2, 3, 49)
    assert torch.equal(masks[1, 2], patch_mask(boxes[1, 2], GRID))


@torch.inference_mode()
def test_together_as_apart_masked_patches_take_no_part() -> None:
    model = tiny_model()
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randn(2, 3, 32, 32, generator=generator)
    frames = torch.randn(2, 3, 3, 32, 32, generator=generator)
    frame_mask = torch.tensor([[True, True, True], [True, False, False]])
    masks = torch.rand(2, 3, CONFIG.encoder.patches, generator=generator) < 0.5
    pictures, together = model.encode_together(pixels, frames, frame_mask, masks)
    apart = model.encode_clips(frames, frame_mask, masks)
    assert torch.equal(together.token_mask, apart.token_mask)
    assert torch.allclose(together.embedding, apart.embedding, atol=1e-5)
    kept = together.token_mask
    assert torch.allclose(together.tokens[kept], apart.tokens[kept], atol=1e-5)
    whole, _ = model.encode_together(pixels, frames, frame_mask)
    assert torch.allclose(pictures.embedding, whole.embedding, atol=1e-5), "pictures have no boxes"
    assert kept.view(2, 3, -1)[..., 0].equal(frame_mask), "class tokens always take part"


def test_what_lies_outside_the_boxes_changes_no_loss() -> None:
    """Pixels of masked patches matter to no loss: not by the encoder, nor by PMD, nor by PFR."""
    plain = replace(CONFIG.encoder, stem="patch", drop_path=0.0)  # conv stems look across patches
    recipe = replace(RECIPE, model=replace(CONFIG, encoder=plain, attention_dropout=0.0))
    torch.manual_seed(0)
    model = Rice(recipe.model).eval()
    batch = BatchDrawer(recipe, {"made": photographs()}, torch.device("cpu")).draw(0)
    masks = torch.zeros(*batch.frame_mask.shape, plain.patches, dtype=torch.bool)
    masks[..., :3] = True
    batch = replace(batch, patch_mask=masks)
    spoiled = batch.frames.clone()
    spoiled[..., 8:, :] = 5.0  # below the first row of patches
    with torch.no_grad():
        losses = objective.rice_losses(model, batch, recipe)
        same = objective.rice_losses(model, replace(batch, frames=spoiled), recipe)
        other = objective.rice_losses(
            model, replace(batch, frames=spoiled, patch_mask=None), recipe
        )
    for name, loss in losses.items():
        assert torch.allclose(loss, same[name], atol=1e-5), name
        assert not torch.allclose(loss, other[name], atol=1e-4), name
