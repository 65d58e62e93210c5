"""Opens a source's folder by its layout: for training, or to be scored on one of its splits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from training.configs import Layout, Source
from training.data.clip_sets import (
    LprClips,
    MovingFashionClips,
    lpr_test,
    lpr_validation,
    movingfashion_queries,
)
from training.data.errors import DataError
from training.data.lpr4m import LprData, LprLayout, open_lpr
from training.data.movingfashion import read_movingfashion
from training.data.photographs import read_photographs, read_single_pictures
from training.data.sets import JudgedSet, TrainingSet
from training.data.wrong_lines import DEFAULT_LIMIT, NO_LIMIT, WrongLines

Track = Callable[[Iterable[Path]], Iterable[Path]]


def open_training(
    source: Source, folder: Path, size: int, track: Track, *, limit: int = DEFAULT_LIMIT
) -> TrainingSet:
    """What batches are drawn from; pictures come out as size x size. Raises DataError, also where
    more than `limit` lines of annotations are wrong, or clips cannot be read (WrongLines)."""
    match source.layout:
        case "photographs":
            return read_photographs(folder, "train", size, track)
        case "pictures":
            return read_single_pictures(folder, size, track)
        case "movingfashion":
            return MovingFashionClips(read_movingfashion(folder, "train"), size, limit)
        case "lpr4m" | "lpr750k" as layout:
            return LprClips(_lpr(layout, folder, track, limit), size)


def open_judging(layout: Layout, folder: Path, split: str, size: int, track: Track) -> JudgedSet:
    """What a model is scored on: `val` or `test`. Raises DataError.

    LPR4M's layouts and MovingFashion come without `val`: it is held out of training
    (training.data.clip_sets). However many lines of training are wrong, the others are scored: it
    is `open_training` that judges them.
    """
    if layout == "pictures":
        raise DataError(f"{folder}: layout pictures has no {split} split")
    if layout == "photographs":
        return read_photographs(folder, split, size, track)
    if split not in ("val", "test"):
        raise DataError(f"{folder}: layout {layout} is scored on val or test, not on {split!r}")
    validation = split == "val"
    if layout == "movingfashion":
        data = read_movingfashion(folder, "train" if validation else "test")
        judged = movingfashion_queries(data, validation=validation)
    else:
        lpr = _lpr(layout, folder, track, NO_LIMIT)
        judged = lpr_validation(lpr) if validation else lpr_test(lpr)
    if not judged.queries:
        held_out = "; it is held out of training, which takes two livestreams, or products"
        raise DataError(f"{folder}: no clip for {split}{held_out if validation else ''}")
    return judged


def layout_of(folder: Path) -> Layout:
    """Told by the files that each layout begins with; raises DataError."""
    annotations = folder / "annotations"
    marks: dict[Layout, Path | None] = {
        "photographs": folder / "classes.csv",
        "pictures": folder / "images.csv",
        "lpr4m": next(annotations.glob("training_videoinfo_full*.txt"), None),
        "lpr750k": next(annotations.glob("training_videoinfo_*.txt"), None),
        "movingfashion": folder / "train.json",
    }
    for layout, mark in marks.items():
        if mark is not None and mark.is_file():
            return layout
    raise DataError(
        f"{folder} is of no known layout: there is neither classes.csv, images.csv, "
        "annotations/training_videoinfo_*.txt nor train.json"
    )


def _lpr(layout: LprLayout, folder: Path, track: Track, limit: int) -> LprData:
    wrong = WrongLines(limit)
    return open_lpr(folder, layout, wrong=wrong, processes=os.cpu_count() or 1, progress=track)
