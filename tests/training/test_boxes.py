"""Annotated boxes on their way into batches: through the square crop, the views, and the mask."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from tests.training.lpr_folders import CLIPS, SHOWN, full_line, write_lpr4m
from tests.training.tiny import CONFIG, RECIPE, photographs, tiny_model
from training.configs import Source, View
from training.data.batches import BatchDrawer
from training.data.clip_sets import LprClips, lpr_validation
from training.data.frames import annotated_boxes, fit_frame, in_square
from training.data.lpr4m import open_lpr
from training.data.records import Box
from training.data.transforms import draw_views, draw_views_and_boxes, move_boxes
from training.evaluation.protocol import score_queries
from training.models.intended_product import patch_mask

CPU = torch.device("cpu")
STILL = View(scale=(1.0, 1.0), aspect=0.0, rotation=0.0, flip=0.0, brightness=0.0, contrast=0.0,
             saturation=0.0, tint=0.0, blur=0.0, erase=0.0)  # fmt: skip


def painted(box: Box, size: tuple[int, int]) -> Image.Image:
    """Black, and white inside a box of pixels."""
    image = Image.new("RGB", size)
    ImageDraw.Draw(image).rectangle([box.left, box.top, box.right - 1, box.bottom - 1], "white")
    return image


def bounds(pixels: np.ndarray) -> list[float]:
    """Of what is white, as shares."""
    rows, columns = np.nonzero(pixels.mean(axis=-1) > 128)
    height, width = pixels.shape[:2]
    found = columns.min() / width, rows.min() / height
    return [*found, (columns.max() + 1) / width, (rows.max() + 1) / height]


@pytest.mark.parametrize("size", [(90, 160), (160, 90), (100, 100)])
@pytest.mark.parametrize("relative", [False, True])
def test_a_box_is_cropped_with_its_frame(size: tuple[int, int], relative: bool) -> None:
    box = Box(30, 40, 60, 80)
    file = io.BytesIO()
    painted(box, size).save(file, "PNG")
    told = box.relative(*size) if relative else Box(*(2 * side for side in box))
    original = None if relative else (2 * size[0], 2 * size[1])  # fetched at half the size
    frame = fit_frame(file.getvalue(), "frame", [told], original, 64)
    assert frame.boxes is not None
    assert list(frame.boxes[0]) == pytest.approx(bounds(frame.pixels), abs=2 / 64)


@pytest.mark.parametrize("turned", [False, True])
def test_pixels_of_a_box_are_those_of_the_whole_frame(turned: bool) -> None:
    """However small a large JPEG is decoded."""
    size, box = (480, 640), Box(120, 200, 240, 320)
    exif, file = Image.Exif(), io.BytesIO()
    frame = painted(box, size)
    if turned:
        exif[0x0112] = 6
        frame = frame.transpose(Image.Transpose.ROTATE_90)
    frame.save(file, "JPEG", exif=exif)
    seen = fit_frame(file.getvalue(), "frame", [box], None, 64)
    assert seen.boxes is not None
    assert list(seen.boxes[0]) == pytest.approx(bounds(seen.pixels), abs=2 / 64)


def test_what_the_square_does_not_show_is_no_box() -> None:
    assert in_square([Box(0.1, 0.0, 0.9, 0.1)], 90, 160) == []
    [cut] = in_square([Box(0.1, 0.0, 0.9, 0.5)], 90, 160)
    assert cut == pytest.approx((0.1, 0.0, 0.9, 0.5))


@pytest.mark.parametrize(
    "view",
    [
        replace(STILL, flip=1.0),
        replace(STILL, scale=(0.6, 0.6)),
        replace(STILL, scale=(0.7, 0.9), aspect=0.3, flip=0.5),
        replace(STILL, scale=(1.2, 1.2)),
    ],
    ids=["flip", "crop", "stretch", "smaller"],
)
def test_a_box_moves_with_its_view(view: View) -> None:
    box = Box(40, 30, 70, 80)
    pixels = torch.from_numpy(np.array(painted(box, (120, 120)))).expand(12, -1, -1, -1)
    boxes = torch.tensor(box.relative(120, 120)).expand(12, 1, 4)
    views, moved = draw_views_and_boxes(pixels, boxes, 120, view, torch.Generator().manual_seed(0))
    for shown, [found] in zip(views, moved, strict=True):
        grey = shown.movedim(0, -1).numpy()
        if view.scale[0] > 1:  # the border is a mirror
            grey = grey[8:-8, 8:-8]
        white = (grey.mean(axis=-1, keepdims=True) > 0) * 255.0
        expected = bounds(np.pad(white, ((8, 8), (8, 8), (0, 0)) if view.scale[0] > 1 else 0))
        assert found.tolist() == pytest.approx(expected, abs=2 / 120)


def test_a_turned_box_holds_all_that_is_seen_of_it() -> None:
    box = Box(40, 30, 70, 80)
    pixels = torch.from_numpy(np.array(painted(box, (120, 120)))).expand(8, -1, -1, -1)
    boxes = torch.tensor(box.relative(120, 120)).expand(8, 1, 4)
    view = replace(STILL, rotation=30.0)
    views, moved = draw_views_and_boxes(pixels, boxes, 120, view, torch.Generator().manual_seed(0))
    for shown, [found] in zip(views, moved, strict=True):
        white = (shown.movedim(0, -1).numpy().mean(axis=-1, keepdims=True) > 0) * 255.0
        assert found.tolist() == pytest.approx(bounds(white), abs=3 / 120)


def test_no_box_stays_none_and_what_leaves_the_view_is_none() -> None:
    shift = torch.tensor([[[0.5, 0.0, 0.5], [0.0, 0.5, 0.5]]])  # shows the lower right quarter
    boxes = torch.tensor([[[0.0, 0.0, 0.0, 0.0], [0.1, 0.1, 0.4, 0.4], [0.25, 0.5, 0.75, 1.0]]])
    assert move_boxes(boxes, shift).tolist() == [[[0] * 4, [0] * 4, [0.0, 0.0, 0.5, 1.0]]]


def test_views_are_the_same_with_boxes_and_without() -> None:
    pixels = photographs().photographs[:4]
    plain = draw_views(pixels, 32, View(), torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    views, _ = draw_views_and_boxes(pixels, torch.zeros(4, 0, 4), 32, View(), generator)
    assert torch.equal(views, plain)


def drawer(
    root: Path, lines: list[str], *, intended_boxes: bool, missed: float = 0.0, noise: float = 0.0
) -> BatchDrawer:
    recipe = replace(
        RECIPE,
        sources=(Source("lpr", "lpr4m", products=3, frames=3),),
        validate_on="lpr",
        tail_cut=0.0,
        frame_view=STILL,
        intended_boxes=intended_boxes,
        missed_boxes=missed,
        box_noise=noise,
    )
    clips = LprClips(open_lpr(write_lpr4m(root, lines=lines), "lpr4m"), CONFIG.encoder.image_size)
    clips._rows, clips.product = np.arange(3), clips._data.clips.product[:]  # nothing held out
    return BatchDrawer(recipe, {"lpr": clips}, CPU)


def annotated_lines() -> list[str]:
    """One clip with a box in each frame, one with none in any, one that nobody has annotated."""
    boxes = [None, str([[0, 0, 0, 0]] * 4), "[]"]
    return [full_line(*told) for told in zip(CLIPS, SHOWN, boxes, strict=True)]


def test_batches_carry_boxes_and_masks(tmp_path: Path) -> None:
    batch = drawer(tmp_path, annotated_lines(), intended_boxes=True).draw(0)
    kinds = [
        (bool(a.all()), bool((b[..., 2:] > b[..., :2]).all()))
        for a, b in zip(batch.annotated, batch.boxes, strict=True)
    ]
    assert sorted(kinds) == [(False, False), (True, False), (True, True)]
    assert batch.patch_mask is not None and batch.boxes.shape == (3, 3, 1, 4)
    assert torch.equal(batch.patch_mask, patch_mask(batch.boxes, 4))
    shown = kinds.index((True, True))
    # The left upper quarter of 540 x 720, of which the square is 540 x 540 from 90 on.
    assert batch.boxes[shown, 0, 0].tolist() == pytest.approx([0, 0, 0.5, 0.5])
    assert batch.patch_mask[shown, 0].view(4, 4)[:2, :2].all()
    assert not batch.patch_mask[shown, 0].all()
    assert batch.patch_mask[[i for i in range(3) if i != shown]].all(), "shown whole"


def test_masks_are_of_boxes_as_a_detector_gives_them(tmp_path: Path) -> None:
    lines = annotated_lines()
    exact = drawer(tmp_path / "exact", lines, intended_boxes=True).draw(0)
    missed = drawer(tmp_path / "missed", lines, intended_boxes=True, missed=1.0).draw(0)
    off = drawer(tmp_path / "off", lines, intended_boxes=True, noise=0.5).draw(0)
    for batch in (missed, off):
        assert torch.equal(batch.boxes, exact.boxes), "what a detector learns from stays exact"
    assert exact.patch_mask is not None and missed.patch_mask is not None
    assert off.patch_mask is not None
    assert not exact.patch_mask.all() and missed.patch_mask.all()
    assert not torch.equal(off.patch_mask, exact.patch_mask)


def test_patches_take_part_whole_where_a_recipe_does_not_ask(tmp_path: Path) -> None:
    batch = drawer(tmp_path, annotated_lines(), intended_boxes=False).draw(0)
    assert batch.patch_mask is None


def test_photographs_are_not_annotated() -> None:
    batch = BatchDrawer(RECIPE, {"made": photographs()}, CPU).draw(0)
    assert not batch.annotated.any()
    assert batch.boxes.shape == (*batch.frame_mask.shape, 0, 4)


def test_validation_sees_the_boxes_of_its_clips(tmp_path: Path) -> None:
    data = open_lpr(write_lpr4m(tmp_path), "lpr4m")
    queries = lpr_validation(data)
    frames = queries.read_frames(queries.queries[0], 3, 32)
    assert annotated_boxes(frames).tolist() == [[[0.0, 0.0, 0.5, 0.5]]] * 3
    whole = score_queries(tiny_model(), queries)["right"]
    boxed = score_queries(tiny_model(), queries, boxes=annotated_boxes)["right"]
    assert not torch.allclose(whole.coarse, boxed.coarse, atol=1e-4)
    blind = score_queries(tiny_model(), queries, boxes=lambda f: torch.zeros(len(f), 1, 4))["right"]
    assert torch.allclose(whole.coarse, blind.coarse, atol=1e-5), "without a box, the whole frame"
