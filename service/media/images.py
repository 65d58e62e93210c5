"""Turns an uploaded picture into upright RGB pixels, and pixels into the model's square.

Trusts nothing of the file: format, size and metadata are judged before a pixel is decoded.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from service.errors import (
    ImageAnimatedError,
    ImageError,
    ImageFormatError,
    ImageMetadataError,
    ImageTooLargeError,
    ImageTooSmallError,
    LPRError,
)
from service.media.image_metadata import check_metadata
from service.settings import MediaSettings

_ORIENTATION = 0x0112  # the EXIF tag
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# A progressive JPEG may ask for its whole picture to be gone over any number of times. Encoders
# write about ten scans; a small picture may have more.
_MOST_PASSES = 16
_EXIF_ERRORS = (OSError, SyntaxError, ValueError, TypeError, LookupError, struct.error)


@dataclass(frozen=True)
class Picture:
    """A decoded picture: `pixels` uint8 [H, W, 3], RGB, upright; `format` jpeg, png or webp."""

    pixels: npt.NDArray[np.uint8]
    format: str


def decode_square(data: bytes, side: int, limits: MediaSettings) -> Picture:
    """The square that the model sees of a picture, [side, side, 3]: decoded, then `fit`.

    Raises as `decode_image` does.
    """
    picture = decode_image(data, limits, least=side)
    return replace(picture, pixels=fit(picture.pixels, side))


def decode_image(data: bytes, limits: MediaSettings, least: int | None = None) -> Picture:
    """Decode a JPEG, PNG or WebP; transparency is laid over white.

    A JPEG is decoded at a half, a quarter or an eighth of its size where its shorter side has
    `least` pixels even so: the transform of its blocks gives that, for a fraction of the time.
    Raises ImageError, or the subclass that says what is wrong with the picture.
    """
    format_name = _format_of(data)
    check_metadata(data, format_name, limits.max_image_metadata_bytes)
    try:
        with Image.open(BytesIO(data), formats=(format_name,)) as image:
            _check_size(image, data, limits)
            if least is not None:
                image.draft(None, (least, least))
            return Picture(_upright_rgb(image), format_name.lower())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large(limits) from error
    except (LPRError, MemoryError):
        raise
    except Exception as error:  # Pillow's readers raise nearly anything on damaged bytes
        if "MAX_TEXT" in str(error):  # Pillow's own bounds on the text inside a PNG
            raise ImageMetadataError("The picture's text chunks are too large.") from error
        raise ImageError(
            "The picture is damaged or incomplete; export it again and send the whole file."
        ) from error


def fit(pixels: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """The manifest's preprocessing: shorter side to `size`, bicubic with antialiasing, centre crop.

    [H, W, 3] to [size, size, 3]. The centre is cut out by Pillow while it scales, so a very long
    picture never becomes a larger one on the way.
    """
    image = Image.fromarray(pixels)
    return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC))


def _format_of(data: bytes) -> str:
    """By the first bytes, whatever the file is called."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if not data:
        raise ImageError("The picture has no bytes; send an image file.")
    raise ImageFormatError("Send the picture as JPEG, PNG or WebP.")


def _check_size(image: Image.Image, data: bytes, limits: MediaSettings) -> None:
    pixels = image.width * image.height
    if pixels > limits.max_image_pixels:
        raise _too_large(limits)
    if min(image.size) < limits.min_image_side:
        raise ImageTooSmallError(
            f"The picture is {image.width}x{image.height} pixels; its shorter side must have at "
            f"least {limits.min_image_side}."
        )
    if getattr(image, "n_frames", 1) > 1 and image.format in ("PNG", "WEBP"):
        raise ImageAnimatedError("The picture is animated; send a single still picture.")
    scans = data.count(b"\xff\xda") if image.format in ("JPEG", "MPO") else 1
    if scans * pixels > _MOST_PASSES * limits.max_image_pixels:
        raise ImageTooLargeError(f"The picture has {scans} scans; save it as a baseline JPEG.")


def _too_large(limits: MediaSettings) -> ImageTooLargeError:
    return ImageTooLargeError(
        f"The picture has more than {limits.max_image_pixels} pixels; scale it down."
    )


def _upright_rgb(image: Image.Image) -> npt.NDArray[np.uint8]:
    image.load()
    orientation = _orientation(image)  # a PNG may keep it behind its pixels
    if image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        rgb = Image.new("RGB", image.size, "white")
        rgb.paste(rgba, mask=rgba.getchannel("A"))
    else:
        rgb = image.convert("RGB")
    if orientation in _UPRIGHT:
        rgb = rgb.transpose(_UPRIGHT[orientation])
    return np.asarray(rgb)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits by its upper byte; Pillow's own conversion cuts everything off at 255."""
    return Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))


def _orientation(image: Image.Image) -> int | None:
    """The EXIF orientation; damaged EXIF is common in the field and no reason to refuse."""
    try:
        value = image.getexif().get(_ORIENTATION)
    except _EXIF_ERRORS:
        return None
    return value if isinstance(value, int) else None
