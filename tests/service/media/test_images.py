from __future__ import annotations

import subprocess
import sys
import zlib
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.errors import (
    ImageAnimatedError,
    ImageError,
    ImageFormatError,
    ImageMetadataError,
    ImageTooLargeError,
    ImageTooSmallError,
)
from service.media.images import decode_image, decode_square, fit
from service.settings import MediaSettings
from tests.service.media.material import (
    encoded,
    jpeg_with_segments,
    picture,
    png_bomb,
    png_chunk,
    png_with,
)

LIMITS = MediaSettings()
QUARTERS = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]])


def quarters(pixels: np.ndarray) -> np.ndarray:
    """The colours in the middles of the four quarters, [2, 2, 3]."""
    height, width = pixels.shape[:2]
    return pixels[height // 4 :: height // 2, width // 4 :: width // 2][:2, :2].astype(int)


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP"])
def test_the_three_formats_are_decoded_as_they_were_drawn(format_name: str) -> None:
    options = {"quality": 95, "subsampling": 0} if format_name == "JPEG" else {"quality": 95}
    decoded = decode_image(encoded(picture(), format_name, **options), LIMITS)
    assert decoded.format == format_name.lower()
    assert decoded.pixels.shape == (48, 64, 3)
    assert decoded.pixels.dtype == np.uint8
    assert np.abs(quarters(decoded.pixels) - QUARTERS).max() < 24


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_undone(format_name: str, orientation: int) -> None:
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,  # stored a quarter turn left, to be shown turned right
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = picture() if undo is None else picture().transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode_image(encoded(stored, format_name, exif=exif, quality=95), LIMITS)
    assert decoded.pixels.shape == (48, 64, 3)
    assert np.abs(quarters(decoded.pixels) - QUARTERS).max() < 60


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_is_no_reason_to_refuse() -> None:
    data = encoded(picture(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f" + b"\xff" * 40)
    assert decode_image(data, LIMITS).pixels.shape == (48, 64, 3)


@pytest.mark.parametrize("side", [16, 20, 40, 100, 400])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_large_jpeg_is_decoded_no_larger_than_need_be(side: int, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    drawn = picture().resize((640, 480), Image.Resampling.BICUBIC)
    data = encoded(drawn, "JPEG", quality=95, exif=exif)
    whole = decode_image(data, LIMITS).pixels
    small = decode_image(data, LIMITS, least=side).pixels
    times = whole.shape[0] // small.shape[0]
    assert times == max(part for part in (1, 2, 4, 8) if part * side <= 480 or part == 1)
    square = decode_square(data, side, LIMITS).pixels
    assert square.shape == (side, side, 3)
    difference = np.abs(square.astype(int) - fit(whole, side))
    assert difference.mean() < 1 if times > 1 else not difference.any()


@pytest.mark.parametrize("format_name", ["PNG", "WEBP"])
def test_other_formats_are_decoded_whole(format_name: str) -> None:
    data = encoded(picture().resize((640, 480)), format_name, quality=95)
    square = decode_square(data, 32, LIMITS)
    assert square.format == format_name.lower()
    np.testing.assert_array_equal(square.pixels, fit(decode_image(data, LIMITS).pixels, 32))


def test_a_large_jpeg_that_ends_early_is_refused() -> None:
    data = encoded(picture().resize((640, 480)), "JPEG", quality=95)
    with pytest.raises(ImageError):
        decode_square(data[: len(data) // 2], 32, LIMITS)


def test_transparency_is_laid_over_white() -> None:
    rgba = np.zeros((32, 32, 4), np.uint8)  # transparent black
    rgba[:, 16:] = (255, 0, 0, 255)
    image = Image.fromarray(rgba)
    grey = image.convert("LA")
    paletted = image.quantize(4)
    for data in (encoded(image, "PNG"), encoded(image, "WEBP", lossless=True)):
        pixels = decode_image(data, LIMITS).pixels
        assert pixels[0, 0].tolist() == [255, 255, 255]
        assert pixels[0, 31].tolist() == [255, 0, 0]
    assert decode_image(encoded(grey, "PNG"), LIMITS).pixels[0, 0].tolist() == [255, 255, 255]
    data = encoded(paletted, "PNG")
    assert Image.open(BytesIO(data)).mode == "P"
    pixels = decode_image(data, LIMITS).pixels
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 31].tolist() == [255, 0, 0]


def test_a_colour_named_transparent_is_laid_over_white() -> None:
    data = encoded(picture(), "PNG", transparency=(255, 0, 0))
    assert quarters(decode_image(data, LIMITS).pixels)[0, 0].tolist() == [255, 255, 255]


def test_sixteen_bits_keep_their_greys() -> None:
    ramp = np.tile(np.linspace(0, 65_535, 64).astype(np.uint16), (32, 1))
    pixels = decode_image(encoded(Image.fromarray(ramp), "PNG"), LIMITS).pixels
    assert np.abs(pixels[0, :, 0].astype(int) - (ramp[0] >> 8)).max() == 0


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_other_colour_modes_become_rgb(mode: str) -> None:
    data = encoded(picture(mode=mode), "JPEG" if mode == "CMYK" else "PNG")
    pixels = decode_image(data, LIMITS).pixels
    assert pixels.shape == (48, 64, 3)
    assert pixels[40, 50].min() > 240  # the white quarter
    assert pixels[40, 10].min() < 140  # the blue one


def test_the_name_of_a_file_does_not_matter_only_its_bytes() -> None:
    assert decode_image(encoded(picture(), "PNG"), LIMITS).format == "png"


@pytest.mark.parametrize(
    "data",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"8BPS\0\1" + bytes(20),
        encoded(picture(), "GIF"),
        encoded(picture(), "BMP"),
        encoded(picture(), "TIFF"),
        b"RIFF\0\0\0\0WAVEfmt ",
        b"x",
    ],
    ids=["svg", "eps", "psd", "gif", "bmp", "tiff", "wav", "x"],
)
def test_other_formats_are_refused_by_name(data: bytes) -> None:
    with pytest.raises(ImageFormatError, match="JPEG, PNG or WebP"):
        decode_image(data, LIMITS)


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.95])
def test_truncated_pictures_are_undecodable(format_name: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    data = encoded(Image.fromarray(noise), format_name)
    with pytest.raises(ImageError) as caught:
        decode_image(data[: max(12, int(len(data) * share))], LIMITS)
    assert caught.value.slug == "image-undecodable"


def test_no_bytes_are_undecodable() -> None:
    with pytest.raises(ImageError) as caught:
        decode_image(b"", LIMITS)
    assert caught.value.slug == "image-undecodable"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [7_000, 10_000, 20_000])
def test_a_png_bomb_is_too_large(side: int) -> None:
    with pytest.raises(ImageTooLargeError, match="40000000 pixels"):
        decode_image(png_bomb(side), LIMITS)


def test_a_webp_bomb_is_too_large() -> None:
    data = encoded(Image.new("RGB", (8_000, 8_000)), "WEBP", lossless=True, method=0)
    with pytest.raises(ImageTooLargeError):
        decode_image(data, LIMITS)


_REFUSE_BOMB = """
import resource, sys
from service.errors import ImageTooLargeError
from service.media.images import decode_image
from service.settings import MediaSettings
from tests.service.media.material import encoded, picture
decode_image(encoded(picture(), "PNG"), MediaSettings())  # whatever the library loads once
data = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decode_image(data, MediaSettings())
except ImageTooLargeError:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_bomb_is_refused_without_the_memory_it_asks_for() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _REFUSE_BOMB],
        input=png_bomb(20_000),
        capture_output=True,
        timeout=120,
        check=True,
    )
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(done.stdout) * unit < 20_000_000


def test_a_jpeg_of_endless_scans_is_too_large() -> None:
    data = encoded(Image.new("L", (6_000, 6_000)), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    with pytest.raises(ImageTooLargeError, match="scans"):
        decode_image(data[:-2] + scan * 500 + data[-2:], LIMITS)


def test_an_ordinary_progressive_jpeg_is_decoded() -> None:
    data = encoded(picture(), "JPEG", progressive=True)
    assert decode_image(data, LIMITS).pixels.shape == (48, 64, 3)


@pytest.mark.parametrize("format_name", ["PNG", "WEBP"])
def test_animations_are_refused(format_name: str) -> None:
    others = [picture().rotate(angle) for angle in (90, 180)]
    data = encoded(picture(), format_name, save_all=True, append_images=others)
    with pytest.raises(ImageAnimatedError):
        decode_image(data, LIMITS)


@pytest.mark.parametrize("size", [(1, 1), (15, 400), (400, 15)])
def test_tiny_pictures_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ImageTooSmallError, match=f"{size[0]}x{size[1]}"):
        decode_image(encoded(picture(*size), "PNG"), LIMITS)


def _behind(jpeg: bytes, inserted: bytes) -> bytes:
    return jpeg[:2] + inserted + jpeg[2:]


def _metadata_bombs() -> dict[str, bytes]:
    big, bomb = 5_000_000, zlib.compress(bytes(50_000_000), 9)
    return {
        "jpeg exif": jpeg_with_segments(0xE1, 80),
        "jpeg icc": jpeg_with_segments(0xE2, 80),
        "jpeg comment": jpeg_with_segments(0xFE, 80),
        "jpeg exif behind a bare marker": _behind(jpeg_with_segments(0xE1, 80), b"\xff\xd0"),
        "jpeg exif behind junk": _behind(jpeg_with_segments(0xE1, 80), b"\xff\x00junk"),
        "jpeg of bare markers": _behind(encoded(picture(), "JPEG"), b"\xff\xd0" * 2_500_000),
        "png text": png_with(png_chunk(b"tEXt", b"k\0" + b"a" * big)),
        "png exif": png_with(png_chunk(b"eXIf", bytes(big))),
        "png ztxt bomb": png_with(png_chunk(b"zTXt", b"k\0\0" + bomb)),
        "png itxt bomb": png_with(png_chunk(b"iTXt", b"k\0\1\0en\0k\0" + bomb)),
        "png icc bomb": png_with(png_chunk(b"iCCP", b"k\0\0" + bomb)),
        "png many texts": png_with(
            png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(900_000))) * 9
        ),
        "png text over Pillow's bound": png_with(
            png_chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(3_000_000)))
        ),
        "webp icc": encoded(picture(), "WEBP", icc_profile=bytes(big)),
        "webp exif": encoded(picture(), "WEBP", exif=b"Exif\0\0II*\0" + bytes(big)),
        "webp xmp": encoded(picture(), "WEBP", xmp=bytes(big)),
    }


@pytest.mark.parametrize(("name", "data"), _metadata_bombs().items(), ids=_metadata_bombs())
def test_giant_metadata_is_refused(name: str, data: bytes) -> None:
    with pytest.raises(ImageMetadataError):
        decode_image(data, LIMITS)


def test_ordinary_metadata_is_accepted() -> None:
    exif = Image.Exif()
    exif[0x010E] = "a description"
    for format_name in ("JPEG", "PNG", "WEBP"):
        data = encoded(picture(), format_name, exif=exif, icc_profile=bytes(3_000))
        assert decode_image(data, LIMITS).pixels.shape == (48, 64, 3)
    assert decode_image(jpeg_with_segments(0xE2, 40), LIMITS).format == "jpeg"


@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (128, 128), (16, 9_000), (9_000, 16)])
@pytest.mark.parametrize("size", [128, 33])
def test_fit_gives_a_square_of_any_aspect(shape: tuple[int, int], size: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
    fitted = fit(pixels, size)
    assert fitted.shape == (size, size, 3)
    assert fitted.dtype == np.uint8


def test_fit_is_shorter_side_bicubic_then_centre_crop() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (256, 512, 3), np.uint8)
    whole = Image.fromarray(pixels).resize((128, 64), Image.Resampling.BICUBIC)
    assert np.array_equal(fit(pixels, 64), np.asarray(whole)[:, 32:96])


def test_fit_is_antialiased() -> None:
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(fit(stripes, 32).astype(int) - 127).max() < 8


def test_fit_leaves_a_picture_of_the_right_size_alone() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    assert np.array_equal(fit(pixels, 64), pixels)


_GOOD = [
    encoded(picture(), "JPEG"),
    encoded(picture(), "JPEG", progressive=True, exif=Image.Exif()),
    encoded(picture(mode="CMYK"), "JPEG"),
    encoded(picture(mode="P"), "PNG"),
    encoded(picture(mode="RGBA"), "PNG"),
    encoded(picture(), "PNG", icc_profile=bytes(300)),
    encoded(picture(), "WEBP"),
    encoded(picture(mode="RGBA"), "WEBP", lossless=True),
]


@settings(max_examples=400)
@given(
    data=st.sampled_from(_GOOD),
    edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=12),
    length=st.floats(0, 1),
    tail=st.binary(max_size=20),
)
def test_mutated_bytes_raise_only_our_errors(
    data: bytes, edits: list[tuple[float, int]], length: float, tail: bytes
) -> None:
    mutated = bytearray(data)
    for place, value in edits:
        mutated[int(place * (len(mutated) - 1))] = value
    mutated = mutated[: int(length * len(mutated)) + 1] + tail
    try:
        pixels = decode_image(bytes(mutated), LIMITS).pixels
    except ImageError as error:
        assert error.detail.endswith(".")
    else:
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3


@settings(max_examples=200)
@given(st.binary(max_size=300), st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b""]))
def test_noise_raises_only_our_errors(noise: bytes, start: bytes) -> None:
    with pytest.raises(ImageError):
        decode_image(start + noise, LIMITS)
