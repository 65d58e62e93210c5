"""Clips filmed from photographs: of the asked length and shape, the same for the same seed."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from service.demo.film import film, frame_size
from service.errors import DemoError
from service.media.clips import ClipDecoder
from service.settings import MediaSettings


@pytest.fixture
def photographs(tmp_path: Path) -> list[Path]:
    """A red, a green and a blue one, each with a white mark that tells movement."""
    paths = []
    for k, colour in enumerate([(190, 30, 30), (30, 160, 30), (30, 30, 190)]):
        picture = Image.new("RGB", (160, 160), colour)
        picture.paste((250, 250, 250), (70, 70, 90, 90))
        paths.append(tmp_path / f"{k}.png")
        picture.save(paths[-1])
    return paths


def _probe(clip: Path) -> str:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(clip), "-f", "null", "-"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def test_a_clip_has_the_asked_length_shape_and_codec(
    photographs: list[Path], tmp_path: Path
) -> None:
    clip = film(photographs, tmp_path / "a.mp4", seed=1, seconds=2.4, rate=12.5, shorter=96)
    told = _probe(clip)
    assert re.search(r"Video: h264 .*yuv420p.* 96x96.* 12\.50? fps", told)
    assert re.search(r"frame=\s*30 ", told)
    assert "Duration: 00:00:02.40" in told


def test_the_same_seed_gives_the_same_bytes(photographs: list[Path], tmp_path: Path) -> None:
    clips = [
        film(photographs, tmp_path / f"{k}.mp4", seed=seed, seconds=1, shorter=64).read_bytes()
        for k, seed in enumerate((1, 1, 2))
    ]
    assert clips[0] == clips[1]
    assert clips[0] != clips[2]


def test_every_photograph_is_shown_in_order_and_held_by_a_moving_hand(
    photographs: list[Path], tmp_path: Path
) -> None:
    clip = film(photographs, tmp_path / "a.mp4", seed=1, seconds=3, shorter=96)
    decoder = ClipDecoder(MediaSettings())
    frames = decoder.decode(clip.read_bytes(), size=96, frames=9).pixels.astype(float)
    shown = [int(frame[:20, :20].mean(axis=(0, 1)).argmax()) for frame in frames]
    assert shown == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert np.abs(frames[1] - frames[2]).max() > 60


@pytest.mark.parametrize(
    ("photograph", "clip"),
    [((400, 400), (480, 480)), ((348, 464), (480, 640)), ((4000, 1000), (854, 480))],
)
def test_a_clip_has_the_proportion_of_its_photographs(
    photograph: tuple[int, int], clip: tuple[int, int]
) -> None:
    assert frame_size(Image.new("L", photograph)) == clip


def test_what_cannot_be_filmed_is_said(photographs: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    with pytest.raises(DemoError, match=r"broken\.jpg"):
        film([broken], tmp_path / "a.mp4", seed=1)
    with pytest.raises(DemoError, match="at least one"):
        film([], tmp_path / "a.mp4", seed=1)
    with pytest.raises(DemoError, match="nowhere"):
        film(photographs, tmp_path / "nowhere" / "a.mp4", seed=1, seconds=0.2, shorter=64)
