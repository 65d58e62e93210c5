"""Readers of LPR4M (github.com/adxcreative/RICE) and of the 750K subset of RICE's released code.

`lpr4m`: `annotations/training_videoinfo_full_part_*.txt` (tab-separated) and the `test_*` files
beside them; pictures in img2dataset's shards anywhere below the folder, found by id.
`lpr750k`: `annotations/training_videoinfo_*.txt` with other columns, of which one that is named
`..._val.txt` is not for training; pictures are files:
`query/`, `gallery/<live id>/`, `training_image/`, `training_video_0X/`.
Lists are Python literals, never evaluated as code. LPR-Synth is written in the first layout.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from training.data.clip_index import ClipIndex, index_clips
from training.data.errors import DataError
from training.data.pictures import FilePictures, Pictures
from training.data.records import (
    Box,
    Clip,
    Query,
    ShopPicture,
    clip_of,
    duration_type,
    live_of,
    products_type,
    scale_type,
    to_boxes,
)
from training.data.shards import open_shards
from training.data.wrong_lines import WrongLines

LprLayout = Literal["lpr4m", "lpr750k"]
TRAINING_FILES = {
    "lpr4m": "training_videoinfo_full*.txt",
    "lpr750k": "training_videoinfo_*.txt",
}


@dataclass(frozen=True)
class LprData:
    """An opened data set: its pictures, its training clips by row, and its test."""

    folder: Path
    layout: LprLayout
    pictures: Pictures
    clips: ClipIndex
    wrong: WrongLines

    @cached_property
    def test(self) -> Benchmark:
        """Raises DataError."""
        return (read_test if self.layout == "lpr4m" else read_test_750k)(self.folder)


@dataclass(frozen=True)
class Benchmark:
    """Queries and, by livestream, the shop's pictures that each is looked for among."""

    queries: list[Query]
    galleries: dict[str, list[ShopPicture]]
    titles: dict[str, str]
    """By image id; not every picture has one."""

    def __post_init__(self) -> None:
        for query in self.queries:
            if query.live_id not in self.galleries:
                raise DataError(f"clip {query.clip_id}: livestream {query.live_id} has no gallery")


def open_lpr(
    folder: Path,
    layout: LprLayout,
    *,
    wrong: WrongLines | None = None,
    processes: int = 1,
    progress: Callable[[Iterable[Path]], Iterable[Path]] = lambda shards: shards,
) -> LprData:
    """Opens a data set; the first time, its files and shards are read once. Raises DataError."""
    wrong = wrong or WrongLines()
    if layout == "lpr4m":
        pictures: Pictures = open_shards(folder, processes=processes, progress=progress)
        parse = parse_full
    else:
        pictures, parse = FilePictures(folder), parse_750k
    files = training_files(folder, layout)
    clips = index_clips(folder, files, parse, wrong, processes=processes)
    return LprData(folder, layout, pictures, clips, wrong)


def training_files(folder: Path, layout: LprLayout) -> list[Path]:
    """Annotations of training clips, sorted; raises DataError where there are none."""
    pattern = TRAINING_FILES[layout]
    files = [file for file in annotation_files(folder, pattern) if not file.stem.endswith("_val")]
    if not files:
        raise DataError(f"{folder / 'annotations'}: no file {pattern} but of validation")
    return files


def annotation_files(folder: Path, pattern: str) -> list[Path]:
    """Files of `annotations/` that match, sorted; raises DataError where none does."""
    files = sorted((folder / "annotations").glob(pattern))
    if not files:
        raise DataError(f"{folder / 'annotations'}: no file {pattern}")
    return files


def parse_full(line: str) -> Clip:
    """A line of the full annotations: 11 columns. Raises DataError."""
    fields = _fields(line, 11)
    frames = _texts(fields[1], "column 2, frame ids")
    boxes = tuple(to_boxes(boxes) for boxes in _list(fields[2], "column 3, boxes"))
    if boxes and len(boxes) != len(frames):
        raise DataError(f"boxes for {len(boxes)} frames, but {len(frames)} frames")
    return Clip(
        clip_id=fields[0],
        live_id=live_of(fields[0]),
        frames=frames,
        boxes=boxes,
        image_id=_given(fields[3], "column 4, image id"),
        image=fields[3],
        product_id=fields[3],
        title=fields[4],
        category_id=fields[5],
        category=fields[6],
        speech=fields[7],
        scale=fields[8],
        duration=fields[9],
        products=fields[10],
    )


def parse_750k(line: str) -> Clip:
    """A line of the 750K subset: 10 columns, no boxes. Raises DataError."""
    fields = _fields(line, 10)
    return Clip(
        clip_id=fields[0],
        live_id=live_of(fields[0]),
        frames=_texts(fields[1], "column 2, frame paths"),
        boxes=(),
        image_id=_given(fields[3], "column 4, image id"),
        image=_given(fields[4], "column 5, image path"),
        product_id=_given(fields[8], "column 9, spu id"),
        title=fields[5],
        category_id=fields[6],
        category=fields[7],
        speech=fields[9],
    )


def _fields(line: str, columns: int) -> list[str]:
    fields = line.split("\t")
    if len(fields) != columns:
        raise DataError(f"{len(fields)} columns instead of {columns}")
    return fields


def _given(value: str, name: str) -> str:
    if not value:
        raise DataError(f"{name}: empty")
    return value


def _list(text: str, name: str) -> list[Any]:
    """A list, as JSON or as a Python literal."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise DataError(f"{name}: no list: {type(error).__name__}") from error
    if not isinstance(value, list):
        raise DataError(f"{name}: a {type(value).__name__} instead of a list")
    return value


def _texts(text: str, name: str) -> tuple[str, ...]:
    values = _list(text, name)
    if not values or not all(isinstance(value, str) and value for value in values):
        raise DataError(f"{name}: must be texts, at least one")
    return tuple(values)


def read_test(folder: Path) -> Benchmark:
    """LPR4M's test. Frames without a box are known from `test_frame_url_*.txt` alone, the list of
    URLs that frames were fetched by. Without boxes, nothing tells what frames show. Raises
    DataError, also without that list: frames that have boxes all show the product."""
    truth = read_json(_one(folder, "test_videoid_to_gtimage_*.json"))
    galleries = read_json(_one(folder, "test_liveid_to_gallery_*.json"))
    boxes = {frame: to_boxes(b) for frame, b in _test_boxes(folder).items()}
    speech = _pairs(folder, "test_videoid_asr_*.txt")
    others = _others(folder)
    frames: dict[str, list[str]] = {}
    for frame in sorted(_frame_urls(folder)):
        frames.setdefault(clip_of(frame), []).append(frame)
    return Benchmark(
        [
            _query(clip, ids, frames.get(clip, []), boxes, speech, others.get(clip))
            for clip, ids in truth.items()
        ],
        {live: [ShopPicture(i, i) for i in _image_ids(ids)] for live, ids in galleries.items()},
        _pairs(folder, "test_image_title_*.txt"),
    )


def read_test_750k(folder: Path) -> Benchmark:
    """The subset's test: `*query*.json` {clip: {frames, gt}}, frames below `query/`, and
    `*gallery*.txt` of `live id/file`, below `gallery/`; a picture's id is the first five
    dash-separated fields of its file's name. A frame that is there as it is told, from the root,
    is taken so. Raises DataError."""
    pictures = FilePictures(folder)
    queries = read_json(_one(folder, "*query*.json"))
    galleries: dict[str, list[ShopPicture]] = {}
    for line in _one(folder, "*gallery*.txt").read_text().split():
        live, slash, name = line.partition("/")
        if not slash:
            raise DataError(f"gallery list: {line!r} is not <live id>/<file>")
        identity = "-".join(Path(name).stem.split("-")[:5])
        galleries.setdefault(live, []).append(ShopPicture(identity, f"gallery/{line}"))
    try:
        found = [
            Query(
                clip,
                live_of(clip),
                tuple(name if name in pictures else f"query/{name}" for name in told["frames"]),
                _image_ids(told["gt"]),
            )
            for clip, told in queries.items()
        ]
    except (KeyError, TypeError) as error:
        raise DataError(f"query list: {error!r}") from error
    return Benchmark(found, galleries, {})


def _query(  # noqa: PLR0917  one clip's share of five files
    clip: str,
    truth: object,
    frames: list[str],
    boxes: dict[str, tuple[Box, ...]],
    speech: dict[str, str],
    others: list[int] | None,
) -> Query:
    of_frames = tuple(boxes.get(frame, ()) for frame in frames) if boxes else ()
    shown = [found[0] if found else None for found in of_frames]
    told: dict[str, str] = {}
    if others is not None and len(others) == len(shown):
        told["products"] = products_type(
            [count + (box is not None) for count, box in zip(others, shown, strict=True)]
        )
    if any(shown):
        told["duration"] = duration_type(shown)
        if all(max(box) <= 1 for box in shown if box):  # pixels say nothing without the frame's
            told["scale"] = scale_type(shown)
    return Query(
        clip,
        live_of(clip),
        tuple(frames),
        _image_ids(truth),
        of_frames,
        speech.get(clip, ""),
        **told,
    )


def _image_ids(value: object) -> tuple[str, ...]:
    """Ids; a list may give files of pictures instead, `<live id>/<id>.jpg` or `<id>.jpg`."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise DataError(f"image ids must be a list of texts, not {value!r:.80}")
    return tuple(item.rpartition("/")[2].removesuffix(".jpg") for item in value)


def _test_boxes(folder: Path) -> dict[str, Any]:
    files = sorted((folder / "annotations").glob("test_frameid2gtbox_*.json"))
    return read_json(files[0]) if files else {}


def _others(folder: Path) -> dict[str, list[int]]:
    """Of LPR-Synth's test, how many other products each frame of a clip shows. LPR4M does not
    tell: its boxes are of the product that is sold alone."""
    counts = {}
    for file in (folder / "annotations").glob("other_boxes_test.jsonl"):
        for line in file.read_text().splitlines():
            told = json.loads(line)
            counts[told["clip"]] = [len(boxes) for boxes in told["boxes"]]
    return counts


def _frame_urls(folder: Path) -> list[str]:
    """Frame ids out of the list of URLs that the data was fetched by. Raises DataError."""
    pattern = "test_frame_url_*.txt"
    files = sorted((folder / "annotations").glob(pattern))
    if not files:
        raise DataError(
            f"{folder / 'annotations'}: no file {pattern}, the URLs that the test's frames were "
            "fetched by: it alone tells of frames that have no box"
        )
    return [
        url.rpartition("/")[2].rpartition(".")[0]
        for file in files
        for url in file.read_text().split()
    ]


def _pairs(folder: Path, pattern: str) -> dict[str, str]:
    """Lines of id, tab, text, which may have other line breaks than a file's; without such a file,
    nothing."""
    pairs = {}
    for file in sorted((folder / "annotations").glob(pattern)):
        for line in filter(None, file.read_text(encoding="utf-8").split("\n")):
            identity, _, text = line.partition("\t")
            pairs[identity] = text
    return pairs


def _one(folder: Path, pattern: str) -> Path:
    files = annotation_files(folder, pattern)
    if len(files) > 1:
        raise DataError(f"{pattern}: more than one: {', '.join(file.name for file in files)}")
    return files[0]


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object; raises DataError."""
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: {error}") from error
    if not isinstance(told, dict):
        raise DataError(f"{file}: a {type(told).__name__} instead of an object")
    return told
