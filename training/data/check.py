"""Looks through a data set before anybody trains on it: what is there, and what is not.

Knows every layout that a recipe's source can have; reads, and changes nothing but the index.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from training.data.clip_index import evenly
from training.data.contact_sheet import SheetRow
from training.data.lpr4m import LprData, open_lpr
from training.data.movingfashion import read_movingfashion
from training.data.opening import layout_of
from training.data.photographs import read_rows
from training.data.pictures import Pictures
from training.data.records import Clip
from training.data.wrong_lines import WrongLines

FRAMES = 10  # of a clip are looked for: as many as a model sees
SHOWN = 12  # clips on the contact sheet
Item = TypeVar("Item")
Track = Callable[[Iterable[Item], int, str], Iterable[Item]]
"""Passes items on while showing progress: items, how many, what they are."""


@dataclass
class Findings:
    layout: str
    counts: dict[str, int]
    missing: list[str] = field(default_factory=list)
    """References of pictures and videos that annotations name and nobody finds."""
    wrong: WrongLines = field(default_factory=WrongLines)
    kinds: dict[str, Counter[str]] = field(default_factory=dict)
    """Clips by category and by the paper's three difficulties."""
    rows: list[SheetRow] = field(default_factory=list)
    """For the contact sheet."""


def check(folder: Path, track: Track[int], *, limit: int, processes: int = 1) -> Findings:
    """Raises DataError where the folder is of no known layout, or has too many wrong lines."""
    layout = layout_of(folder)
    if layout == "movingfashion":
        return _check_movingfashion(folder)
    if layout == "photographs" or layout == "pictures":  # noqa: PLR1714  mypy narrows by these
        return _check_tables(folder, layout)
    wrong = WrongLines(limit)
    return _check_lpr(open_lpr(folder, layout, wrong=wrong, processes=processes), track)


def _check_lpr(data: LprData, track: Track[int]) -> Findings:
    found = Findings(data.layout, {"clips": len(data.clips)}, wrong=data.wrong)
    products, lives, frames = set(), set(), 0
    kinds: dict[str, Counter[str]] = {
        "category": Counter(), "scale": Counter(), "duration": Counter(), "products": Counter(),
    }  # fmt: skip
    for row in track(range(len(data.clips)), len(data.clips), "training clips"):
        clip = data.clips[row]
        products.add(clip.product_id)
        lives.add(clip.live_id)
        frames += len(clip.frames)
        for kind, counter in kinds.items():
            counter[getattr(clip, kind)] += 1
        looked_for = [clip.image, *(clip.frames[i] for i in evenly(len(clip.frames), FRAMES))]
        found.missing += [name for name in looked_for if name not in data.pictures]
    found.counts |= {"frames": frames, "products": len(products), "livestreams": len(lives)}
    found.kinds = kinds
    _check_benchmark(data, found, track)
    shown = random.Random(0).sample(range(len(data.clips)), min(SHOWN, len(data.clips)))  # noqa: S311
    found.rows = [_sheet_row(data.pictures, data.clips[row]) for row in shown]
    return found


def _check_benchmark(data: LprData, found: Findings, track: Track[int]) -> None:
    if not any((data.folder / "annotations").glob("test*")):
        return
    test = data.test
    found.counts |= {
        "test clips": len(test.queries),
        "test livestreams": len(test.galleries),
        "test pictures": sum(map(len, test.galleries.values())),
    }
    for row in track(range(len(test.queries)), len(test.queries), "test clips"):
        query = test.queries[row]
        names = [query.frames[i] for i in evenly(len(query.frames), FRAMES)]
        found.missing += [name for name in names if name not in data.pictures]
        shop = {picture.image_id for picture in test.galleries[query.live_id]}
        found.missing += [f"{query.clip_id}: {i} in its shop" for i in query.truth if i not in shop]
    for pictures in test.galleries.values():
        found.missing += [p.reference for p in pictures if p.reference not in data.pictures]


def _sheet_row(pictures: Pictures, clip: Clip) -> SheetRow:
    chosen = evenly(len(clip.frames), FRAMES)
    caption = f"{clip.category} | {clip.title[:60]} | {clip.scale} {clip.duration} {clip.products}"
    frames, boxes = [], []
    for position in chosen:
        reference = clip.frames[position]
        frames.append(pictures.read(reference) if reference in pictures else None)
        size = pictures.original_size(reference)
        drawn = clip.boxes[position] if clip.boxes else ()
        boxes.append(tuple(box.relative(*size) for box in drawn) if size else ())
    product = pictures.read(clip.image) if clip.image in pictures else None
    return SheetRow(caption, product, frames, boxes)


def _check_movingfashion(folder: Path) -> Findings:
    found = Findings("movingfashion", {})
    for split in ("train", "test"):
        if not (folder / f"{split}.json").is_file():
            continue
        data = read_movingfashion(folder, split)
        found.counts |= {
            f"{split} products": len(data.products),
            f"{split} videos": len(data.videos),
        }
        found.kinds[split] = Counter(video.source for video in data.videos)
        found.missing += [str(path) for path in data.missing]
        found.missing += [str(path) for path in data.pictures if not path.is_file()]
    return found


def _check_tables(folder: Path, layout: str) -> Findings:
    found = Findings(layout, {})
    tables = {"images.csv": "image", "classes.csv": "iconic_image"}
    tables |= {f"{split}.csv": "image" for split in ("train", "val", "test")}
    for name, column in tables.items():
        if (folder / name).is_file():
            rows = read_rows(folder / name, (column,))
            found.counts[name] = len(rows)
            found.missing += [row[column] for row in rows if not (folder / row[column]).is_file()]
    return found
