"""MovingFashion: its two JSON files, missing videos, and frames out of real mp4 files."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from training.cli import app
from training.data.clip_index import evenly
from training.data.errors import DataError
from training.data.movingfashion import read_frames, read_movingfashion


def write_video(path: Path, seconds: int, rate: int = 5, title: str = "") -> None:
    """Each second is one grey: 20, 40, 60, ..."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(path, "w") as container:
        container.metadata["title"] = title
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = 64, 96, "yuv420p"
        for number in range(seconds * rate):
            grey = np.full((96, 64, 3), 20 * (number // rate + 1), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey)))
        container.mux(stream.encode())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_video(tmp_path / "videos" / "a.mp4", seconds=9)
    (tmp_path / "imgs").mkdir()
    Image.new("RGB", (20, 30)).save(tmp_path / "imgs" / "p.jpg")
    told = {
        "7": {"video_paths": ["videos/a.mp4", "videos/b.mp4"], "img_path": "imgs/p.jpg",
              "source": 0},
    }  # fmt: skip
    for split in ("train", "test"):
        (tmp_path / f"{split}.json").write_text(json.dumps(told))
    return tmp_path


def test_reads_products_and_counts_missing_videos(folder: Path) -> None:
    data = read_movingfashion(folder, "train")
    assert (data.products, [p.name for p in data.pictures]) == (["7"], ["p.jpg"])
    assert [(v.product, v.path.name, v.source) for v in data.videos] == [(0, "a.mp4", "hard")]
    assert [path.name for path in data.missing] == ["b.mp4"]


def test_frames_are_spread_evenly_over_the_seconds(folder: Path) -> None:
    frames = read_frames(folder / "videos" / "a.mp4", partial(evenly, wanted=3))
    assert [frame.shape for frame in frames] == [(96, 64, 3)] * 3
    greys = [frame.mean() for frame in frames]
    assert greys == pytest.approx([40, 100, 160], abs=4), "seconds 1, 4 and 7 of nine"
    assert len(read_frames(folder / "videos" / "a.mp4", partial(evenly, wanted=10))) == 9


def test_a_title_in_another_encoding_is_not_read(folder: Path) -> None:
    path = folder / "videos" / "a.mp4"
    write_video(path, seconds=2, title="QQQQ")
    path.write_bytes(path.read_bytes().replace(b"QQQQ", "Möde".encode("latin-1")))
    assert len(read_frames(path, partial(evenly, wanted=10))) == 2


def test_what_cannot_be_read_is_told(folder: Path) -> None:
    (folder / "videos" / "b.mp4").write_bytes(b"no video")
    with pytest.raises(DataError, match=r"b\.mp4"):
        read_frames(folder / "videos" / "b.mp4", partial(evenly, wanted=3))
    (folder / "train.json").write_text('{"7": {"video_paths": [], "source": 5}}')
    with pytest.raises(DataError, match="product '7'"):
        read_movingfashion(folder, "train")


def test_check_counts_products_videos_and_what_is_missing(folder: Path) -> None:
    result = CliRunner().invoke(app, ["data", "check", str(folder)])
    told = json.loads(result.stdout.splitlines()[-1])
    assert (told["layout"], told["train_videos"], told["missing"]) == ("movingfashion", 1, 2)
