"""Golden examples: pictures in the bundle, and what the model gave for them when it was exported.

They pin what hashes cannot: that JPEG decoding, resizing and onnxruntime of *this* machine lead to
the vectors that the exporter's did. A gallery indexed by a service that fails here would be wrong
without anyone seeing it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from service.errors import BundleError, ImageError
from service.inference.bundle import Bundle
from service.inference.manifest import Document, FileName, describe, read_text
from service.media.images import decode_square
from service.settings import MediaSettings

if TYPE_CHECKING:
    from service.inference.model import Model

MAX_GOLDEN_BYTES = 10_000_000
_LIMITS = MediaSettings.model_validate({})

Vector = Annotated[tuple[float, ...], Field(min_length=1)]
# One so wide that anything passes proves nothing.
Tolerance = Annotated[float, Field(gt=0, le=0.01)]


class GoldenPicture(Document):
    file: FileName
    embedding: Vector
    match_state: Vector
    title: str | None = None


class GoldenClip(Document):
    """`logits` are the matcher's for this clip and each golden picture, in order; `frame_scores`
    what a detector might say of its frames, where the model weighs them by that; `text` the
    cosines of what is said and their titles, of a model that reads; `boxes` and `scores` the
    detector's, where there is one, and `boxes_tolerance` is theirs where it is in another
    precision."""

    frames: Annotated[tuple[FileName, ...], Field(min_length=1)]
    embedding: Vector
    logits: Vector
    speech: str = ""
    frame_scores: Vector | None = None
    text: Vector | None = None
    boxes: Annotated[tuple[Vector, ...], Field(min_length=1)] | None = None
    scores: Vector | None = None
    boxes_tolerance: Tolerance | None = None


class Golden(Document):
    tolerance: Tolerance
    pictures: Annotated[tuple[GoldenPicture, ...], Field(min_length=1)]
    clip: GoldenClip


def read_golden(bundle: Bundle) -> Golden:
    """The bundle's golden examples. Raises BundleError."""
    name = bundle.manifest.golden
    try:
        return Golden.model_validate_json(read_text(bundle.path, name, MAX_GOLDEN_BYTES))
    except ValidationError as error:
        raise BundleError(f"{bundle.path / name}: {describe(error)}") from error


def verify_golden(model: Model, bundle: Bundle) -> None:
    """Raises BundleError where the model's answers are not the golden ones."""
    golden, size = read_golden(bundle), bundle.manifest.dims.image_size
    pictures = model.encode_pictures(
        _read_pictures(bundle, [p.file for p in golden.pictures], size),
        [picture.title or "" for picture in golden.pictures],
    )
    scores = golden.clip.frame_scores
    clip = model.encode_clip(
        _golden_frames(bundle, golden, size),
        golden.clip.speech,
        scores=None if scores is None else np.asarray(scores, np.float32),
    )
    logits = model.match(pictures.match_state, clip)
    text = model.match_text(pictures.match_state, clip)
    if (text is None) != (golden.clip.text is None):
        raise BundleError("the golden clip has speech where the model reads none, or none")
    if text is not None and golden.clip.text is not None:
        _compare("the clip's speech", text, golden.clip.text, golden.tolerance)
    _verify_boxes(model, bundle, golden)
    for index, expected in enumerate(golden.pictures):
        _compare(expected.file, pictures.embedding[index], expected.embedding, golden.tolerance)
        _compare(expected.file, pictures.match_state[index], expected.match_state, golden.tolerance)
    _compare("the clip", clip.embedding, golden.clip.embedding, golden.tolerance)
    _compare("the clip", logits, golden.clip.logits, golden.tolerance)


def _verify_boxes(model: Model, bundle: Bundle, golden: Golden) -> None:
    frames = _golden_frames(bundle, golden, model.frame_size(detect=True))
    found, expected = model.detect(frames), golden.clip
    if found is None and expected.boxes is None and expected.scores is None:
        return
    if found is None or expected.boxes is None or expected.scores is None:
        raise BundleError("the golden clip has boxes where the bundle has no detector, or none")
    boxes = tuple(side for box in expected.boxes for side in box)
    tolerance = expected.boxes_tolerance or golden.tolerance
    _compare("the clip's boxes", found.boxes.ravel(), boxes, tolerance)
    _compare("the clip's boxes", found.scores, expected.scores, tolerance)


def _golden_frames(bundle: Bundle, golden: Golden, size: int) -> npt.NDArray[np.uint8]:
    return _read_pictures(bundle, list(golden.clip.frames), size)


def _read_pictures(bundle: Bundle, names: list[str], size: int) -> npt.NDArray[np.uint8]:
    return np.stack([_read_square(bundle, name, size) for name in names])


def _read_square(bundle: Bundle, name: str, size: int) -> npt.NDArray[np.uint8]:
    if name not in bundle.manifest.files:
        raise BundleError(f"the golden picture {name} is not among the bundle's files")
    try:
        return decode_square((bundle.path / name).read_bytes(), size, _LIMITS).pixels
    except (OSError, ImageError) as error:
        raise BundleError(f"the golden picture {name} cannot be read: {error}") from error


def _compare(
    what: str, found: npt.NDArray[np.float32], expected: tuple[float, ...], tolerance: float
) -> None:
    """Within the tolerance, times the vector's scale where that is above 1."""
    reference = np.asarray(expected)
    if found.shape != reference.shape:
        raise BundleError(f"golden example {what}: {found.shape} for {reference.shape} numbers")
    difference = float(np.abs(found - reference).max())
    allowed = tolerance * max(1.0, float(np.sqrt(np.mean(reference**2))))
    if not difference <= allowed:  # a NaN fails too
        raise BundleError(
            f"golden example {what}: differs by {difference:.2g} where {allowed:.2g} is allowed: "
            "this machine would not compute what the exporter computed"
        )
