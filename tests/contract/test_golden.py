"""The golden pictures pin the preprocessing: two programs read them, and see the same pixels."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from service.inference.bundle import Bundle
from service.inference.golden import read_golden
from service.media.images import decode_image, decode_square, fit
from service.settings import MediaSettings

LIMITS = MediaSettings.model_validate({})


def picture_files(bundle: Path) -> list[Path]:
    golden = json.loads((bundle / "golden.json").read_text())
    names = [picture["file"] for picture in golden["pictures"]] + golden["clip"]["frames"]
    return [bundle / name for name in names]


def test_the_service_reads_what_the_exporter_wrote(tiny_bundle: Path) -> None:
    bundle = Bundle.load(tiny_bundle)
    golden, dims = read_golden(bundle), bundle.manifest.dims
    assert all(len(picture.embedding) == dims.embedding for picture in golden.pictures)
    assert all(len(picture.match_state) == dims.match_state for picture in golden.pictures)
    assert len(golden.clip.embedding) == dims.embedding
    assert len(golden.clip.logits) == len(golden.pictures)
    assert 1 < len(golden.clip.frames) <= dims.frames


def test_every_golden_picture_is_a_picture_to_the_service(tiny_bundle: Path) -> None:
    size = Bundle.load(tiny_bundle).manifest.preprocessing.size
    for file in picture_files(tiny_bundle):
        picture = decode_image(file.read_bytes(), LIMITS)
        assert picture.format == "jpeg"
        fitted = fit(picture.pixels, size)
        assert fitted.shape == (size, size, 3) and fitted.dtype == np.uint8
        assert fitted.std() > 20, "something is drawn on it"


@pytest.mark.parametrize("form", ["jpeg", "large", "transparent", "turned", "palette"])
def test_both_programs_see_the_same_pixels(tiny_bundle: Path, tmp_path: Path, form: str) -> None:
    photographs = pytest.importorskip(
        "training.data.photographs", reason="reads as training does: the training extra",
        exc_type=ImportError,
    )  # fmt: skip
    size = Bundle.load(tiny_bundle).manifest.preprocessing.size
    for file in picture_files(tiny_bundle):
        seen = _saved_as(form, file, tmp_path)
        served = decode_square(seen.read_bytes(), size, LIMITS).pixels
        np.testing.assert_array_equal(served, photographs.read_picture(seen, size))


def _saved_as(form: str, file: Path, folder: Path) -> Path:
    """The picture again, in a form that a reader may get wrong."""
    image = Image.open(file)
    if form == "transparent":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        image.save(folder / "picture.png")
    elif form == "palette":
        image.quantize(16).save(folder / "picture.png", transparency=0)
    elif form == "large":
        image.resize((4 * image.width, 5 * image.height)).save(folder / "picture.jpg")
    elif form == "turned":
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(folder / "picture.jpg", exif=exif)
    else:
        return file
    return next(folder.glob("picture.*"))


def test_the_golden_pictures_tell_other_ways_of_resizing_apart(tiny_bundle: Path) -> None:
    """Larger and smaller than the model's size, wide and tall, and never square already."""
    size = Bundle.load(tiny_bundle).manifest.preprocessing.size
    images = [Image.open(BytesIO(file.read_bytes())) for file in picture_files(tiny_bundle)]
    assert any(min(image.size) > size for image in images)
    assert any(max(image.size) < size for image in images)
    assert any(min(image.size) >= 2 * size for image in images), "one is decoded at half its size"
    assert any(image.width > image.height for image in images)
    assert any(image.width < image.height for image in images)
    for image in images:
        fitted = fit(np.asarray(image), size).astype(int)
        for other in (
            image.resize((size, size), Image.Resampling.BICUBIC),  # stretched, nothing cut off
            ImageOps.fit(image, (size, size), Image.Resampling.NEAREST),
            ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR),
            ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC, centering=(0, 0)),
        ):
            assert np.abs(fitted - np.asarray(other)).mean() > 1


def test_every_number_of_the_golden_answers_counts(tiny_bundle: Path) -> None:
    """Pictures that all gave the same vectors could not show a mistake."""
    golden = read_golden(Bundle.load(tiny_bundle))
    embeddings = np.array([picture.embedding for picture in golden.pictures])
    assert np.linalg.norm(embeddings[0] - embeddings[1]) > 10 * golden.tolerance
    assert np.ptp(golden.clip.logits) > 10 * golden.tolerance
