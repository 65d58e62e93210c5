"""Writes LPR-Synth in LPR4M's own layout: annotations, and shards as img2dataset leaves them.

Beside LPR4M's files there is `other_boxes_*.jsonl`, the boxes of all products but the intended
one, and `synth.json`, what the data set was made from. The same arguments write the same bytes,
however many processes write them.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Literal

import cv2

from training.data.errors import DataError
from training.data.parallel import each
from training.data.records import Box
from training.data.synthetic.livestream import Livestream, MadeClip, Plan

Shards = Literal["tar", "folders"]
PREFIX = "https://lpr-synth.invalid/"  # of the pictures' URLs, whose last part is the id
PARTS = 10  # files of training annotations, as in LPR4M
TEST_LIVESTREAMS = 110
TEST_CLIPS_PER_LIVE = 182  # as in LPR4M: 20,079 clips of 110 livestreams
TRAINING_CLIPS_PER_LIVE = 40


@dataclass(frozen=True)
class Synth:
    """What a data set is made from."""

    clips: int
    """Of training and test together; one in ten is of the test, up to 110 livestreams."""
    seed: int
    size: int = 224
    """Shorter side of frames, and side of shop pictures, in pixels."""
    frames: int = 10
    """Of each clip, evenly over its seconds."""
    shop_size: int = 600
    """Products of each livestream's shop."""
    rivals: bool = False
    """More products are compared, and held alike: one frame alone cannot tell which is sold."""
    by_speech: bool = False
    """Some of them all the while: no frame can tell, only what is said."""

    def __post_init__(self) -> None:
        if (
            self.clips < 2
            or self.size < 64
            or self.frames < 1
            or self.shop_size < 2
            or self.seed < 0
        ):
            raise DataError(
                "LPR-Synth needs at least 2 clips, 64 pixels, 1 frame and shops of 2 products, "
                "and a seed of 0 or more"
            )
        if self.by_speech and not self.rivals:
            raise DataError("speech tells rivals apart: there are none without rivals")


@dataclass(frozen=True)
class _Job:
    plan: Plan
    folder: Path
    shards: Shards


@dataclass(frozen=True)
class _Written:
    """Of one livestream: what annotations say about it."""

    plan: Plan
    live_id: str
    clips: list[MadeClip]  # without their frames
    gallery: list[str]
    titles: dict[str, str]


def plans(synth: Synth) -> tuple[list[Plan], list[Plan]]:
    """Livestreams of training and of the test."""
    most = TEST_LIVESTREAMS * TEST_CLIPS_PER_LIVE
    test_clips = min(max(1, round(synth.clips / 10)), most)
    test_lives = max(1, round(test_clips / TEST_CLIPS_PER_LIVE))
    training_clips = synth.clips - test_clips
    training_lives = max(1, round(training_clips / TRAINING_CLIPS_PER_LIVE))
    training = [_plan(synth, i, training_clips, training_lives) for i in range(training_lives)]
    test = [_plan(synth, i, test_clips, test_lives, test=True) for i in range(test_lives)]
    return training, test


def _plan(synth: Synth, place: int, clips: int, lives: int, *, test: bool = False) -> Plan:
    return Plan(
        seed=synth.seed,
        number=2 * place + test,  # training is even, the test odd: more of one moves nothing
        clips=clips // lives + (place < clips % lives),
        frames=synth.frames,
        width=synth.size,
        height=2 * round(synth.size * 8 / 9),  # 9:16
        shop_size=synth.shop_size,
        whole_shop=test,
        rivals=synth.rivals,
        by_speech=synth.by_speech,
    )


def write_synth(
    out: Path,
    synth: Synth,
    *,
    shards: Shards = "tar",
    processes: int = 1,
    done: Callable[[int], None] = lambda clips: None,
) -> None:
    """Writes a whole data set into `out`, which must be new or empty; `done` is told of clips.

    Raises DataError.
    """
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out} is not empty")
    (out / "annotations").mkdir(parents=True, exist_ok=True)
    training, test = plans(synth)
    jobs = [_Job(plan, out / "training", shards) for plan in training]
    jobs += [_Job(plan, out / "test", shards) for plan in test]
    written = []
    for live in each(_write_livestream, jobs, processes):
        written.append(live)
        done(len(live.clips))
    _write_training(out / "annotations", [live for live in written if not live.plan.whole_shop])
    _write_test(out / "annotations", [live for live in written if live.plan.whole_shop])
    (out / "synth.json").write_text(json.dumps(asdict(synth)))


def _write_livestream(job: _Job) -> _Written:
    cv2.setNumThreads(1)
    live = Livestream(job.plan)
    opened = _FolderShard if job.shards == "folders" else _TarShard
    height, width = job.plan.height, job.plan.width
    with opened(job.folder / f"{job.plan.number // 2:05d}") as shard:
        gallery, titles = [], {}
        for photo in live.photos():
            shard.add(photo.image_id, photo.jpeg, width, width)
            gallery.append(photo.image_id)
            titles[photo.image_id] = photo.title
        clips = []
        for made in live.clips():
            for name, jpeg in zip(made.clip.frames, made.frames, strict=True):
                shard.add(name, jpeg, width, height)
            clips.append(MadeClip(made.clip, [], made.others, made.truth))
    return _Written(job.plan, live.live_id, clips, gallery, titles)


class _TarShard:
    """`00000.tar`, complete or not there."""

    def __init__(self, path: Path) -> None:
        self._path = path.with_suffix(".tar")
        self._count = 0

    def __enter__(self) -> _TarShard:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._tar = tarfile.open(self._path.with_suffix(".partial"), "w")
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._tar.close()
        if kind is None:
            self._path.with_suffix(".partial").replace(self._path)

    def add(self, identity: str, jpeg: bytes, width: int, height: int) -> None:
        key = f"{self._path.stem}{self._count:04d}"
        self._count += 1
        for name, data in (
            (f"{key}.jpg", jpeg),
            (f"{key}.json", _sidecar(identity, key, width, height)),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            self._tar.addfile(member, io.BytesIO(data))


class _FolderShard:
    """`00000/` of single files."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._count = 0

    def __enter__(self) -> _FolderShard:
        self._path.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def add(self, identity: str, jpeg: bytes, width: int, height: int) -> None:
        key = f"{self._path.name}{self._count:04d}"
        self._count += 1
        (self._path / f"{key}.jpg").write_bytes(jpeg)
        (self._path / f"{key}.json").write_bytes(_sidecar(identity, key, width, height))


def _sidecar(identity: str, key: str, width: int, height: int) -> bytes:
    told = {
        "url": f"{PREFIX}{identity}.jpg", "key": key, "status": "success", "error_message": None,
        "width": width, "height": height, "original_width": width, "original_height": height,
    }  # fmt: skip
    return json.dumps(told).encode()


# Annotations.


def _write_training(annotations: Path, lives: list[_Written]) -> None:
    with ExitStack() as stack:
        parts = [
            stack.enter_context(_text(annotations / f"training_videoinfo_full_part_{part:02d}.txt"))
            for part in range(PARTS)
        ]
        others = stack.enter_context(_text(annotations / "other_boxes_training.jsonl"))
        for place, live in enumerate(lives):
            for made in live.clips:
                parts[place % PARTS].write(_line(made))
                others.write(_others(made))


def _line(made: MadeClip) -> str:
    clip = made.clip
    fields = (
        clip.clip_id, json.dumps(list(clip.frames)), json.dumps([_boxes(b) for b in clip.boxes]),
        clip.image_id, clip.title, clip.category_id, clip.category, clip.speech, clip.scale,
        clip.duration, clip.products,
    )  # fmt: skip
    return "\t".join(fields) + "\n"


def _boxes(boxes: tuple[Box, ...] | list[Box]) -> list[list[float]]:
    return [list(box) for box in boxes]


def _others(made: MadeClip) -> str:
    return json.dumps({"clip": made.clip.clip_id, "boxes": [_boxes(b) for b in made.others]}) + "\n"


def _write_test(annotations: Path, lives: list[_Written]) -> None:
    clips = [made for live in lives for made in live.clips]
    frames = [
        (frame, box)
        for made in clips
        for frame, box in zip(made.clip.frames, made.clip.boxes, strict=True)
    ]
    boxes = {frame: _boxes(box) for frame, box in frames if box}
    titles = {image: title for live in lives for image, title in live.titles.items()}

    def write(name: str, text: str) -> None:
        with _text(annotations / name) as file:
            file.write(text)

    truth = {made.clip.clip_id: list(made.truth) for made in clips}
    write(f"test_videoid_to_gtimage_{len(clips)}.json", json.dumps(truth))
    galleries = {live.live_id: live.gallery for live in lives}
    write(f"test_liveid_to_gallery_{len(lives)}.json", json.dumps(galleries))
    write(f"test_frameid2gtbox_{len(clips)}_{len(boxes)}.json", json.dumps(boxes))
    speech = "".join(f"{made.clip.clip_id}\t{made.clip.speech}\n" for made in clips)
    write(f"test_videoid_asr_{len(clips)}.txt", speech)
    told = "".join(f"{image}\t{title}\n" for image, title in titles.items())
    write(f"test_image_title_{len(titles)}.txt", told)
    urls = "".join(f"{PREFIX}{frame}.jpg\n" for frame, _ in frames)
    write(f"test_frame_url_{len(frames)}.txt", urls)
    write("other_boxes_test.jsonl", "".join(_others(made) for made in clips))


def _text(path: Path) -> IO[str]:
    return path.open("w", encoding="utf-8", newline="\n")
