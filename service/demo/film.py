"""Clips from photographs, as a person would film them: each held for a while by an unsteady hand.

Crop, zoom and small rotation move over every photograph; cuts are hard; the hand shakes, the focus
hunts after a cut, the brightness drifts; the result is H.264 in an mp4. Knows nothing of products.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import ffmpeg
import imageio_ffmpeg
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter, ImageOps

from service.errors import DemoError

Frame = npt.NDArray[np.uint8]

SECONDS = 5.0
FRAME_RATE = 12.5
SHORTER_SIDE = 480


@dataclass(frozen=True)
class _Shot:
    """How one photograph is held: zooms, centres and rotations at its beginning and end."""

    zoom: tuple[float, float]
    centre: npt.NDArray[np.float64]
    angle: tuple[float, float]
    shake: npt.NDArray[np.float64]
    phase: npt.NDArray[np.float64]
    hunting: float


def _shot(rng: np.random.Generator) -> _Shot:
    return _Shot(
        zoom=(rng.uniform(1.1, 1.25), rng.uniform(1.1, 1.25)),
        centre=rng.uniform(-0.035, 0.035, (2, 2)),
        angle=(rng.uniform(-0.05, 0.05), rng.uniform(-0.05, 0.05)),
        shake=rng.uniform(0.001, 0.005, (3, 3)),
        phase=rng.uniform(0, math.tau, (3, 3)),
        hunting=float(rng.uniform(1.0, 3.5)) if rng.random() < 0.5 else 0.0,
    )


def _view(
    shot: _Shot, t: float, second: float, scale: float, sizes: tuple[int, ...]
) -> list[float]:
    """The affine coefficients that show the frame at `t` (0..1 of the shot)."""
    frame_width, frame_height, width, height = sizes
    rates = np.asarray([7.3, 12.1, 19.7])
    tremor = (shot.shake * np.sin(rates * second + shot.phase)).sum(axis=1)
    glide = 0.5 - 0.5 * math.cos(math.pi * t)
    zoom = shot.zoom[0] + (shot.zoom[1] - shot.zoom[0]) * glide
    angle = shot.angle[0] + (shot.angle[1] - shot.angle[0]) * glide + tremor[2]
    centre = shot.centre[0] + (shot.centre[1] - shot.centre[0]) * glide + tremor[:2]
    x, y = (0.5 + centre[0]) * width, (0.5 + centre[1]) * height
    cos, sin = math.cos(angle) / (zoom * scale), math.sin(angle) / (zoom * scale)
    half_x, half_y = frame_width / 2, frame_height / 2
    return [
        *(cos, -sin, x - cos * half_x + sin * half_y),
        *(sin, cos, y - sin * half_x - cos * half_y),
    ]


def frame_size(photograph: Image.Image, shorter: int = SHORTER_SIDE) -> tuple[int, int]:
    """Width and height of a clip in the photograph's proportion, at most 16:9; both even."""
    ratio = min(max(photograph.width / photograph.height, 9 / 16), 16 / 9)
    longer = 2 * round(shorter * max(ratio, 1 / ratio) / 2)
    return (longer, shorter) if ratio > 1 else (shorter, longer)


def _opened(path: Path, longest: int) -> Image.Image:
    try:
        with Image.open(path) as picture:
            picture.draft("RGB", (longest, longest))
            upright = ImageOps.exif_transpose(picture).convert("RGB")
    except (OSError, Image.DecompressionBombError) as error:
        raise DemoError(f"{path} is not a picture that can be read: {error}") from error
    upright.thumbnail((longest, longest), Image.Resampling.BICUBIC)
    return upright


def _frames(
    photographs: Sequence[Image.Image], size: tuple[int, int], count: int, rate: float, seed: int
) -> Iterator[Image.Image]:
    rng = np.random.default_rng([seed, 3])
    shots = [_shot(rng) for _ in photographs]
    drift, depth = rng.uniform(0, math.tau), rng.uniform(0.02, 0.1)
    bounds = [round(k * count / len(photographs)) for k in range(len(photographs) + 1)]
    for number in range(count):
        k = next(k for k in range(len(photographs)) if number < bounds[k + 1])
        photograph, shot = photographs[k], shots[k]
        since, length = number - bounds[k], max(1, bounds[k + 1] - bounds[k])
        scale = max(size[0] / photograph.width, size[1] / photograph.height)
        view = _view(shot, since / length, number / rate, scale, (*size, *photograph.size))
        frame = photograph.transform(
            size, Image.Transform.AFFINE, tuple(view), Image.Resampling.BILINEAR
        )
        blur = shot.hunting * max(0.0, 1 - since / rate / 0.35)
        if blur > 0.3:
            frame = frame.filter(ImageFilter.GaussianBlur(blur))
        gain = 1 + depth * math.sin(1.3 * number / rate + drift)
        yield frame.point([min(255, round(value * gain)) for value in range(256)] * 3)


def film(
    photographs: Sequence[Path],
    out: Path,
    *,
    seed: int,
    seconds: float = SECONDS,
    rate: float = FRAME_RATE,
    shorter: int = SHORTER_SIDE,
) -> Path:
    """Writes an mp4 of `seconds` at `rate` frames a second from one or more photographs.

    Its shape is that of the first photograph, `shorter` pixels on the shorter side. The same
    arguments give the same bytes. Returns `out`. Raises DemoError.
    """
    if not photographs:
        raise DemoError("a clip needs at least one photograph")
    opened = [_opened(path, 3 * shorter) for path in photographs]
    size = frame_size(opened[0], shorter)
    count = max(1, round(seconds * rate))
    process = _encoder(out, size, rate)
    with contextlib.suppress(BrokenPipeError):  # its exit status tells why
        for frame in _frames(opened, size, count, rate, seed):
            process.stdin.write(frame.tobytes())
    _, complaint = process.communicate()
    if process.returncode != 0:
        raise DemoError(f"ffmpeg could not write {out}: {complaint.decode(errors='replace')}")
    return out


def _encoder(out: Path, size: tuple[int, int], rate: float):  # type: ignore[no-untyped-def]
    """An ffmpeg child that takes RGB frames on its standard input."""
    raw = ffmpeg.input(
        "pipe:", format="rawvideo", pix_fmt="rgb24", s=f"{size[0]}x{size[1]}", framerate=rate
    )
    encoded = raw.output(
        str(out),
        vcodec="libx264",
        pix_fmt="yuv420p",
        preset="veryfast",
        crf=24,
        g=round(2 * rate),
        threads=1,
        movflags="+faststart",
        fflags="+bitexact",
        **{"flags:v": "+bitexact"},
    )
    command = encoded.global_args("-loglevel", "error", "-nostats").overwrite_output()
    return command.run_async(cmd=imageio_ffmpeg.get_ffmpeg_exe(), pipe_stdin=True, pipe_stderr=True)
