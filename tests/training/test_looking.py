"""Looking where a detector finds the intended product: what is cut out of which frames."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.training.tiny import RECIPE
from training.models.detector import ClipDetector, DetectorConfig
from training.models.intended_product import patch_mask
from training.models.looking import (
    Looked,
    Looking,
    cut_out,
    frame_size,
    taking_part,
    views_around,
    whole_like,
)

ENCODER = RECIPE.model.encoder
SIZE = ENCODER.image_size


def looking(threshold: float, *, closer: bool) -> Looking:
    torch.manual_seed(0)
    config = DetectorConfig(image_size=32, patch_size=8, width=32, heads=2, queries=4)
    detector = ClipDetector(config).eval()
    for name, parameter in detector.named_parameters():
        if "box.4.weight" in name:
            torch.nn.init.normal_(parameter, 0.0, 0.05)
    return Looking(detector, threshold, ENCODER, closer=closer)


def look(threshold: float, *, closer: bool) -> tuple[torch.Tensor, Looked]:
    side = frame_size(SIZE, closer=closer)
    generator = torch.Generator().manual_seed(1)
    frames = torch.randint(0, 256, (2, 3, side, side, 3), generator=generator, dtype=torch.uint8)
    with torch.inference_mode():
        return frames, looking(threshold, closer=closer)(frames, torch.ones(2, 3).bool())


@pytest.mark.parametrize(
    ("box", "view"),
    [
        ((0.4, 0.3, 0.6, 0.7), (0.24, 0.24, 0.76, 0.76)),  # 1.3 times the longer side
        ((0.5, 0.5, 0.6, 0.6), (0.3, 0.3, 0.8, 0.8)),  # no closer than twice
        ((0.0, 0.1, 0.2, 0.6), (0.0, 0.025, 0.65, 0.675)),  # moved into the frame
        ((0.0, 0.0, 0.9, 0.5), (0.0, 0.0, 1.0, 1.0)),  # no wider than the frame
    ],
)
def test_views_are_squares_around_boxes(box: tuple[float, ...], view: tuple[float, ...]) -> None:
    assert views_around(torch.tensor(box)).tolist() == pytest.approx(view, abs=1e-6)


def test_frames_without_the_product_take_no_part_unless_it_is_in_none() -> None:
    found = torch.tensor([[True, False, True], [False, False, False], [True, True, True]])
    expected = [[True, False, True], [True, True, True], [True, True, True]]
    assert taking_part(found).tolist() == expected


def test_a_view_shows_its_part_of_the_frame() -> None:
    """Of a frame whose pixels tell their place, 0 to 1."""
    place = (torch.arange(64) + 0.5) / 64
    frame = torch.stack(torch.meshgrid(place, place, indexing="ij"), dim=-1)[None]
    view = torch.tensor([[0.25, 0.125, 0.75, 0.625]])
    down, across = cut_out(frame, view, 16)[0].unbind(-1)
    steps = (torch.arange(16) + 0.5) / 32
    assert torch.allclose(across, (0.25 + steps).expand(16, 16), atol=1e-5)
    assert torch.allclose(down, (0.125 + steps)[:, None].expand(16, 16), atol=1e-5)


def test_the_whole_of_a_larger_frame_is_the_mean_of_its_pixels() -> None:
    frame = torch.rand(1, 16, 16, 3)
    seen = cut_out(frame, whole_like(torch.zeros(1, 4)), 8)
    halves = frame.unflatten(2, (8, 2)).unflatten(1, (8, 2)).mean(dim=(2, 4))
    assert torch.allclose(seen, halves, atol=1e-6)


def test_what_is_found_is_looked_at_closer() -> None:
    frames, looked = look(0.0, closer=True)
    assert looked.found.all()
    assert torch.equal(looked.views, views_around(looked.boxes))
    assert looked.pixels.shape == (2, 3, SIZE, SIZE, 3) and looked.pixels.dtype == torch.uint8
    expected = cut_out(frames[1, 2][None], looked.views[1, 2][None], SIZE)[0]
    assert (looked.pixels[1, 2] - expected).abs().max() <= 0.5 + 1e-4
    assert looked.patch_mask.all()


def test_where_nothing_is_found_frames_are_seen_whole() -> None:
    frames, looked = look(1.1, closer=True)
    assert not looked.found.any()
    assert torch.equal(looked.views, whole_like(looked.boxes))
    halves = frames.float().unflatten(3, (SIZE, 2)).unflatten(2, (SIZE, 2)).mean(dim=(3, 5))
    assert (looked.pixels - halves).abs().max() <= 0.5 + 1e-4


def test_a_model_trained_for_masks_sees_those() -> None:
    frames, looked = look(0.0, closer=False)
    assert torch.equal(looked.pixels, frames)
    assert torch.equal(looked.views, whole_like(looked.boxes))
    expected = patch_mask(looked.boxes[:, :, None], ENCODER.grid)
    assert torch.equal(looked.patch_mask, expected) and not expected.all()
    assert RECIPE.looks_closer and not replace(RECIPE, intended_boxes=True).looks_closer
