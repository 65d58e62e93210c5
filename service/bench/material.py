"""What is benched on: pictures, clips and shops, made here and the same each time."""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from service.bench.bare import Pixels
from service.demo.made import FIRST_DEMO_SEED
from service.demo.products import make_products
from service.demo.scenes import shop_picture
from service.errors import BenchError
from service.jobs.batch import PRODUCTS
from service.media.images import fit

SHOP = "bench"
SPEECH = (
    "and this one is on offer only tonight so look at the colour everybody it is the small red one "
    "that i had on last week and it comes with a bag too"
)
_SEED = FIRST_DEMO_SEED
_DRAWN = (
    16  # different pictures: drawing takes longer than encoding, and cost does not depend on it
)
_MAKE_S = 120.0


def ffmpeg() -> str:
    """The decoder of the service, as itself."""
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise BenchError(f"No ffmpeg was found: {error}") from error


def jpegs() -> list[bytes]:
    """Shop pictures as they are sent."""
    pictures = []
    for product in make_products(_DRAWN, _SEED):
        file = io.BytesIO()
        shop_picture(product).save(file, "JPEG", quality=92)
        pictures.append(file.getvalue())
    return pictures


def pixels(count: int, size: int) -> Pixels:
    """`count` pictures as the model sees them, uint8 [count,S,S,3]; few of them different."""
    drawn = [
        fit(np.asarray(shop_picture(product)), size)
        for product in make_products(min(count, _DRAWN), _SEED)
    ]
    return np.stack([drawn[place % len(drawn)] for place in range(count)])


def archive(pictures: Sequence[bytes], count: int) -> bytes:
    """A tar of `count` products with a title and one picture each, as `POST /gallery/batch` takes
    it."""
    titles = [product.title for product in make_products(_DRAWN, _SEED)]
    lines, file = [], io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for place in range(count):
            name = f"product-{place:06d}"
            title = f"{titles[place % len(titles)]} {place}"
            lines.append({"product_id": name, "title": title, "images": [f"{name}.jpg"]})
            _add(tar, f"{name}.jpg", pictures[place % len(pictures)])
        _add(tar, PRODUCTS, "\n".join(map(json.dumps, lines)).encode())
    return file.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def clip(out: Path, *, seconds: float, width: int, height: int, rate: int, gop: int) -> Path:
    """An H.264 clip with motion and a little grain, `gop` frames from key frame to key frame.

    Returns `out`. Raises BenchError.
    """
    source = f"testsrc2=s={width}x{height}:r={rate}:d={seconds},noise=alls=3:allf=t"
    command = [ffmpeg(), "-y", "-loglevel", "error", "-f", "lavfi", "-i", source]
    command += ["-c:v", "libx264", "-preset", "veryfast", "-pix_fmt", "yuv420p"]
    command += ["-g", str(gop), "-keyint_min", str(gop), "-sc_threshold", "0"]
    try:
        subprocess.run(  # noqa: S603 - our own command, no shell
            [*command, str(out)], check=True, capture_output=True, timeout=_MAKE_S
        )
    except (subprocess.SubprocessError, OSError) as error:
        raise BenchError(f"ffmpeg could not make a clip: {error}") from error
    return out
