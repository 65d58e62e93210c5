"""Training annotations by row: any of four million lines at once, without keeping them.

Reading the files once finds where each line lies, whose product and livestream it is, and which
lines are wrong; the result is kept beside the data (training.data.index), 36 bytes a clip.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.data.errors import DataError
from training.data.index import load_index, save_index, stamps
from training.data.parallel import each
from training.data.records import Clip
from training.data.shards import hash_of
from training.data.wrong_lines import WrongLines

Parse = Callable[[str], Clip]
"""One line without its end -> the clip; raises DataError. A module's function: it is pickled."""

ROW = np.dtype(
    [
        ("file", "<u4"), ("line", "<u4"), ("offset", "<u8"), ("length", "<u4"), ("product", "<u8"),
        ("live", "<u8"),
    ]
)  # fmt: skip


FEWEST = 60  # groups for validation: together, they fill a shop with what training never shows


@dataclass(frozen=True)
class _Job:
    number: int
    file: Path
    parse: Parse
    limit: int


class ClipIndex:
    """The right lines of annotation files, in their order."""

    def __init__(self, rows: np.ndarray, files: list[Path], parse: Parse) -> None:
        self._rows = rows
        self._files = files
        self._parse = parse

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def product(self) -> np.ndarray:
        """uint64 [N]: equal where clips show the same product."""
        return self._rows["product"]

    @property
    def live(self) -> np.ndarray:
        """uint64 [N]: equal where clips are of the same livestream."""
        return self._rows["live"]

    def __getitem__(self, row: int) -> Clip:
        found = self._rows[row]
        with self._files[int(found["file"])].open("rb") as file:
            file.seek(int(found["offset"]))
            return self._parse(file.read(int(found["length"])).decode())

    def place(self, row: int) -> tuple[Path, int]:
        """File and line of a row, for messages."""
        return self._files[int(self._rows[row]["file"])], int(self._rows[row]["line"])


def index_clips(
    folder: Path, files: list[Path], parse: Parse, wrong: WrongLines, *, processes: int = 1
) -> ClipIndex:
    """Indexes `files` below `folder`. Wrong lines are added to `wrong`, which may raise DataError.

    Raises DataError where no line is right, and where two tell of the same clip: parts of a file
    and all of them joined would double every clip.
    """
    told = {"files": stamps(folder, files), "parse": parse.__name__, "clips": "each once"}
    kept = load_index(folder, "clips", told)
    if kept is None:
        jobs = [_Job(number, file, parse, wrong.limit) for number, file in enumerate(files)]
        parts = list(each(_read, jobs, processes))
        rows = np.concatenate([rows for rows, _, _ in parts])
        left_out = np.array([reason for _, _, reasons in parts for reason in reasons], np.str_)
        _check_once(np.concatenate([clips for _, clips, _ in parts]), ClipIndex(rows, files, parse))
    else:
        rows, left_out = kept["rows"], kept["wrong"]
    for told_wrong in left_out.tolist():
        number, line, reason = told_wrong.split("\t", 2)
        wrong.add(files[int(number)], int(line), reason)
    if kept is None:  # only now: what has too many wrong lines is read again next time
        save_index(folder, "clips", told, {"rows": rows, "wrong": left_out})
    if not len(rows):
        raise DataError(f"{folder}: no clip in {', '.join(file.name for file in files)}")
    return ClipIndex(rows, files, parse)


def _check_once(clips: np.ndarray, found: ClipIndex) -> None:
    """`clips` is uint64 [N], hashes of the clips' ids. Raises DataError."""
    order = np.argsort(clips, kind="stable")
    again = np.flatnonzero(clips[order[1:]] == clips[order[:-1]])
    if len(again):
        one, other = order[again[0]], order[again[0] + 1]
        places = (f"{file}:{line}" for file, line in map(found.place, (one, other)))
        raise DataError(
            f"{len(again)} clips are there twice; {found[one].clip_id} in {' and '.join(places)}"
        )


def _read(job: _Job) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Rows of one file, hashes of their clips' ids, and of each wrong line "file number, line,
    reason" by tabs."""
    rows: list[tuple[int, ...]] = []
    clips: list[int] = []
    wrong: list[str] = []
    offset = 0
    try:
        with job.file.open("rb") as file:
            for line, data in enumerate(file, start=1):
                try:
                    clip = job.parse(data.decode().rstrip("\r\n"))
                    places = (job.number, line, offset, len(data.rstrip(b"\r\n")))
                    rows.append((*places, hash_of(clip.product_id), hash_of(clip.live_id)))
                    clips.append(hash_of(clip.clip_id))
                except (DataError, UnicodeDecodeError) as error:
                    wrong.append(f"{job.number}\t{line}\t{error}")
                    if len(wrong) > job.limit:
                        break
                offset += len(data)
    except OSError as error:
        raise DataError(f"{job.file}: {error.strerror}") from error
    return np.array(rows, ROW), np.array(clips, np.uint64), wrong


def held_out(group: np.ndarray, share: float) -> np.ndarray:
    """Bool [N] of clips in the livestreams, or of the products, that are kept for validation.

    They are the groups with the lowest hashes, so that they stay the same when data is added:
    that share of them, at least FEWEST where these are no more than a tenth, and at least one of
    several. `group` is uint64 [N].
    """
    groups = np.unique(group)
    fewest = min(FEWEST, max(1, len(groups) // 10))
    count = min(max(fewest, round(share * len(groups))), len(groups) - 1)
    return np.isin(group, groups[:count])


def evenly(count: int, wanted: int) -> list[int]:
    """At most `wanted` positions among `count`, evenly spaced, each from its stretch's middle."""
    if count <= wanted:
        return list(range(count))
    return [(2 * i + 1) * count // (2 * wanted) for i in range(wanted)]
