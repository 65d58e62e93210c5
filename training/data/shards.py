"""img2dataset's shards: pictures by id, from anywhere in terabytes of them.

A shard is a folder `00000/` of `000000000.jpg` with `000000000.json`, or `00000.tar` of the same.
A picture's id is the last part of the `url` in its JSON, without the suffix. An index of 36 bytes
a picture, memory-mapped and so shared by all processes, finds it.

Plain tar files with an index, not a library that streams shards (webdataset): a clip's frames are
picked from all over a shard, a batch is drawn by its step alone so that a run resumes exactly,
and the last release of that library is from June 2025, alpha by its own classifier.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from training.data.errors import DataError
from training.data.index import load_index, save_index, stamps
from training.data.parallel import each
from training.data.pictures import Size

logger = logging.getLogger(__name__)

ENTRY = np.dtype(
    [
        ("shard", "<u4"), ("digits", "<u4"), ("offset", "<u8"), ("size", "<u4"), ("width", "<u4"),
        ("height", "<u4"),
    ]
)  # fmt: skip
"""One picture. In a tar: where its bytes lie; in a folder: `offset` is its key, of `digits`
digits. `width` and `height` are the original's, which annotated boxes refer to."""


class ShardedPictures:
    """References are ids, looked up in all of img2dataset's shards below a folder."""

    def __init__(self, hashes: np.ndarray, entries: np.ndarray, shards: list[Path]) -> None:
        self._hashes = hashes  # uint64 [N], sorted
        self._entries = entries  # ENTRY [N]
        self._shards = shards

    def __len__(self) -> int:
        return len(self._hashes)

    def __contains__(self, reference: str) -> bool:
        return self._find(reference) is not None

    def read(self, reference: str) -> bytes:
        entry = self._find(reference)
        if entry is None:
            raise DataError(f"no picture {reference!r} in any shard")
        shard = self._shards[int(entry["shard"])]
        try:
            if entry["digits"]:
                return (shard / f"{_key(entry)}.jpg").read_bytes()
            with shard.open("rb") as file:
                file.seek(int(entry["offset"]))
                return file.read(int(entry["size"]))
        except OSError as error:
            raise DataError(f"{shard}: {reference}: {error.strerror}") from error

    def original_size(self, reference: str) -> Size | None:
        entry = self._find(reference)
        if entry is None or not entry["width"]:
            return None
        return Size(int(entry["width"]), int(entry["height"]))

    def _find(self, reference: str) -> np.void | None:
        wanted = hash_of(reference)
        position = int(np.searchsorted(self._hashes, np.uint64(wanted)))
        if position == len(self._hashes) or int(self._hashes[position]) != wanted:
            return None
        found: np.void = self._entries[position]
        return found


def hash_of(text: str) -> int:
    """64 bits; among all 473 million frames of LPR4M, two share one with a chance of 0.6 %, and
    the index is not made then."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _key(entry: np.void) -> str:
    return str(entry["offset"]).zfill(int(entry["digits"]))


def find_shards(folder: Path) -> list[Path]:
    """img2dataset's shards at any depth: tar files, and folders that hold `0...0.json`, sorted.
    Folders may be links to other disks; each is looked through once. Raises DataError."""
    found, seen = [], set()
    for root, folders, files in os.walk(folder, followlinks=True):
        place = os.path.realpath(root)
        if place in seen:  # a second link to it, or one in a circle
            folders.clear()
            continue
        seen.add(place)
        shards = {name for name in folders if name.isdecimal() and _is_shard(Path(root, name))}
        tars = [name for name in files if name.endswith(".tar") and name[:-4].isdecimal()]
        found += [Path(root, name) for name in (*shards, *tars)]
        folders[:] = sorted(name for name in folders if name not in shards)
    return sorted(found)


def _is_shard(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(e.name[0].isdecimal() and e.name.endswith(".json") for e in entries)
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}") from error


def open_shards(
    folder: Path,
    *,
    processes: int = 1,
    progress: Callable[[Iterable[Path]], Iterable[Path]] = lambda shards: shards,
) -> ShardedPictures:
    """All shards below `folder`, by the index kept in `folder/.lpr`; made anew when they changed.

    Where that cannot be written the index lives in memory. Of an id that is there twice, the
    first picture is taken. Raises DataError.
    """
    shards = find_shards(folder)
    if not shards:
        raise DataError(f"{folder}: no img2dataset shards: neither 00000.tar nor 00000/*.json")
    told = {"shards": stamps(folder, shards)}
    kept = load_index(folder, "pictures", told)
    if kept is None:
        hashes, entries = _index(shards, processes, progress)
        save_index(folder, "pictures", told, {"hashes": hashes, "entries": entries})
    else:
        hashes, entries = kept["hashes"], kept["entries"]
    return ShardedPictures(hashes, entries, shards)


def _index(
    shards: list[Path],
    processes: int,
    progress: Callable[[Iterable[Path]], Iterable[Path]],
) -> tuple[np.ndarray, np.ndarray]:
    found = each(_index_shard, list(enumerate(shards)), processes)
    parts = [part for _, part in zip(progress(shards), found, strict=True)]
    hashes = np.concatenate([hashes for hashes, _, _ in parts])
    checks = np.concatenate([checks for _, checks, _ in parts])
    entries = np.concatenate([entries for _, _, entries in parts])
    order = np.argsort(hashes, kind="stable")
    hashes, checks, entries = hashes[order], checks[order], entries[order]

    def shards_of(place: int) -> str:
        return " and ".join(str(shards[int(entries[i]["shard"])]) for i in (place - 1, place))

    again = np.flatnonzero(hashes[1:] == hashes[:-1]) + 1
    differing = again[checks[again] != checks[again - 1]]
    if len(differing):
        raise DataError(f"different ids share a hash, in {shards_of(differing[0])}")
    if len(again):
        logger.warning(
            "%d pictures are there more than once, one of them in %s: the first of each is taken",
            len(again), shards_of(again[0]),
        )  # fmt: skip
        hashes, entries = np.delete(hashes, again), np.delete(entries, again)
    return hashes, entries


def _index_shard(job: tuple[int, Path]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hashes of ids, checksums of ids, which tell those apart that share a hash, and ENTRYs."""
    number, shard = job
    found = list(_tar_entries(shard) if shard.is_file() else _folder_entries(shard))
    entries = np.zeros(len(found), ENTRY)
    for position, (_, digits, offset, size, original) in enumerate(found):
        entries[position] = (number, digits, offset, size, *original)
    hashes = np.array([hash_of(identity) for identity, *_ in found], np.uint64)
    checks = np.array([zlib.crc32(identity.encode()) for identity, *_ in found], np.uint32)
    return hashes, checks, entries


Found = tuple[str, int, int, int, Size]  # id, digits, offset, size, original


def _tar_entries(shard: Path) -> Iterator[Found]:
    """Raises DataError where the tar is cut short or broken."""
    sidecars: dict[str, tuple[str, Size]] = {}
    places: dict[str, tuple[int, int]] = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                key, _, kind = member.name.rpartition("/")[2].partition(".")
                if kind == "json" and (file := tar.extractfile(member)):
                    sidecars[key] = _sidecar(file.read(), f"{shard}: {member.name}")
                elif kind == "jpg":
                    places[key] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"{shard}: {error}") from error
    for key, (offset, size) in places.items():
        if key not in sidecars:
            raise DataError(f"{shard}: {key}.jpg has no {key}.json, which holds its id")
        identity, original = sidecars[key]
        yield identity, 0, offset, size, original


def _folder_entries(shard: Path) -> Iterator[Found]:
    for path in sorted(shard.glob("*.json")):
        if path.stem.isdecimal() and path.with_suffix(".jpg").is_file():
            identity, original = _sidecar(path.read_bytes(), str(path))
            yield identity, len(path.stem), int(path.stem), 0, original


def _sidecar(data: bytes, name: str) -> tuple[str, Size]:
    """Id and original size out of img2dataset's JSON; 0 x 0 where it tells none."""
    try:
        told = json.loads(data)
        identity = urlsplit(told["url"]).path.rpartition("/")[2].rpartition(".")[0]
        size = Size(int(told.get("original_width") or 0), int(told.get("original_height") or 0))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{name}: not img2dataset's: {error!r}") from error
    if not identity:
        raise DataError(f"{name}: its url names no picture: {told['url']!r}")
    return identity, size
