"""A small made shop: pictures of coloured patterns, and clips that ffmpeg films of them."""

from __future__ import annotations

import io
import subprocess
from dataclasses import dataclass

import imageio_ffmpeg
import numpy as np
from PIL import Image

PRODUCTS = 6


@dataclass(frozen=True)
class Shop:
    pictures: dict[str, bytes]  # product id -> a JPEG
    clips: dict[str, bytes]  # product id -> an MP4 that shows that picture


def make_shop() -> Shop:
    pictures = {f"product-{i}": picture(i) for i in range(PRODUCTS)}
    return Shop(pictures, {name: clip(picture) for name, picture in pictures.items()})


def picture(seed: int) -> bytes:
    """Large coloured squares, unlike those of any other seed."""
    squares = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(squares).resize((128, 128), Image.Resampling.NEAREST).save(
        buffer, "JPEG", quality=95
    )
    return buffer.getvalue()


def clip(jpeg: bytes, seconds: float = 1.0) -> bytes:
    """The picture held still, as H.264 in MP4."""
    source = ["-f", "image2pipe", "-framerate", "10", "-loop", "1", "-i", "pipe:0"]
    fragments = ["-movflags", "frag_keyframe+empty_moov", "-f", "mp4", "pipe:1"]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *source]
    command += ["-t", str(seconds), "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "12"]
    done = subprocess.run([*command, *fragments], input=jpeg, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
