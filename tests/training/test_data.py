"""Folders of pictures: what is read, what is refused, and what a batch is made of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.training.tiny import RECIPE, photographs
from training.configs import View
from training.data.batches import BatchDrawer
from training.data.errors import DataError
from training.data.photographs import read_photographs, read_picture, read_single_pictures
from training.data.transforms import draw_views, normalise

GROCERY = Path(__file__).parents[3] / "shared" / "data" / "grocery"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (30, 60), (250, 0, 0)).save(tmp_path / "red.png")
    Image.new("RGB", (60, 30), (0, 0, 250)).save(tmp_path / "blue.png")
    (tmp_path / "classes.csv").write_text(
        "class_id,class_name,iconic_image\n7,Red,red.png\n9,Blue,blue.png\n"
    )
    (tmp_path / "train.csv").write_text(
        "image,class_id,clip_id\nblue.png,9,a\nred.png,7,b\nblue.png,9,a\n"
    )
    (tmp_path / "images.csv").write_text("image\nred.png\nblue.png\n")
    return tmp_path


def test_reads_products_photographs_and_clips(folder: Path) -> None:
    data = read_photographs(folder, "train", 16)
    assert data.names == ["Red", "Blue"]
    assert data.product.tolist() == [1, 0, 1]
    assert data.clips() == [[0, 2], [1]]
    assert data.pictures[0, 8, 8].tolist() == [250, 0, 0]
    assert data.photographs.shape == (3, 16, 16, 3)


def test_single_pictures_are_products_of_their_own(folder: Path) -> None:
    data = read_single_pictures(folder, 16)
    assert data.product.tolist() == [0, 1]
    assert torch.equal(data.pictures, data.photographs)


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("train.csv", "image,class_id,clip_id\nred.png,7,a\nred.png,8,a\n", "train.csv:3.*'8'"),
        ("train.csv", "image,class_id,clip_id\nred.png,,a\n", "train.csv:2.*class_id"),
        ("train.csv", "image,class_id,clip_id\nred.png,7,a\nblue.png,9,a\n", "train.csv:3.*'a'"),
        ("train.csv", "image,class_id,clip_id\n", "no rows"),
        ("train.csv", "image,class_id,clip_id\ngone.png,7,a\n", "gone.png"),
        ("classes.csv", "class_id,class_name\n7,Red\n", "classes.csv:2.*iconic_image"),
    ],
)
def test_wrong_lines_are_named(folder: Path, file: str, text: str, told: str) -> None:
    (folder / file).write_text(text)
    with pytest.raises(DataError, match=told):
        read_photographs(folder, "train", 16)


def test_whatever_pillow_says_of_a_picture_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "noise.png"
    Image.effect_noise((300, 300), 50).save(path)
    whole = path.read_bytes()
    first, _, rest = whole.rpartition(b"IDAT")
    path.write_bytes(first + b"?DAT" + rest)
    with pytest.raises(DataError, match="broken PNG"):
        read_picture(path, 16)
    path.write_bytes(whole)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)
    with pytest.raises(DataError, match="decompression bomb"):
        read_picture(path, 16)


def test_a_batch_holds_each_product_once_and_pads_with_zeros() -> None:
    batch = BatchDrawer(RECIPE, {"made": photographs()}, torch.device("cpu")).draw(3)
    assert batch.pictures.shape == (4, 3, 32, 32)
    assert batch.frames.shape == (8, 2, 3, 32, 32)
    assert batch.product.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert batch.frame_mask[:, 0].all()
    assert batch.frames[~batch.frame_mask].abs().sum() == 0


def test_batches_depend_on_seed_and_step_alone() -> None:
    def frames(seed: int, step: int) -> torch.Tensor:
        recipe = replace(RECIPE, seed=seed)
        return BatchDrawer(recipe, {"made": photographs()}, torch.device("cpu")).draw(step).frames

    assert torch.equal(frames(0, 5), frames(0, 5))
    assert not torch.equal(frames(0, 5), frames(0, 6))
    assert not torch.equal(frames(0, 5), frames(1, 5))


def test_a_view_that_varies_nothing_is_the_picture() -> None:
    still = View(
        scale=(1, 1), aspect=0, rotation=0, flip=0, brightness=0, contrast=0, saturation=0,
        tint=0, blur=0, erase=0,
    )  # fmt: skip
    pictures = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    drawn = draw_views(pictures, 32, still, torch.Generator().manual_seed(0))
    assert torch.allclose(drawn, normalise(pictures), atol=1e-3)


def test_the_grocery_pictures_are_as_described() -> None:
    if not GROCERY.is_dir():
        pytest.skip("the grocery photographs are not at hand")
    data = read_photographs(GROCERY, "val", 32)
    assert (len(data.names), len(data.photographs), len(data.clips())) == (81, 296, 67)
