"""Arrays that are made from a data set once and kept beside it, in `.lpr`, memory-mapped.

Knows when its sources have changed, and nothing of what the arrays mean.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any

import numpy as np

logger = logging.getLogger(__name__)

INDEX = ".lpr"


def stamps(folder: Path, sources: Iterable[Path]) -> list[list[object]]:
    """Name, size and time of each source: what an index was made of."""
    told: list[list[object]] = []
    for source in sources:
        status = source.stat()
        told.append([str(source.relative_to(folder)), status.st_size, status.st_mtime_ns])
    return told


def load_index(folder: Path, name: str, told: dict[str, Any]) -> dict[str, np.ndarray] | None:
    """Memory-mapped arrays saved under `name`; None where they are of other sources than `told`."""
    try:
        kept = json.loads((folder / INDEX / f"{name}.json").read_text())
        if kept["of"] != told:
            return None
        return {
            array: np.load(folder / INDEX / f"{name}-{array}.npy", mmap_mode="r")
            for array in kept["arrays"]
        }
    except (OSError, ValueError, KeyError):  # no index, or one cut short: it is made again
        return None


def save_index(
    folder: Path, name: str, told: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    """Writes what `load_index` reads, the JSON last; a folder that is read-only keeps nothing.

    Files are replaced, never written over: another run may have mapped them.
    """
    place = folder / INDEX
    try:
        place.mkdir(exist_ok=True)
        (place / f"{name}.json").unlink(missing_ok=True)
        for array, values in arrays.items():
            with _own_file(place / f"{name}-{array}.npy") as file:
                np.save(file, values)
        with _own_file(place / f"{name}.json") as file:
            file.write(json.dumps({"of": told, "arrays": sorted(arrays)}).encode())
    except OSError as error:
        logger.warning("%s: the index cannot be kept, only used: %s", place, error.strerror)


@contextmanager
def _own_file(path: Path) -> Iterator[IO[bytes]]:
    """Becomes `path` when the block ends well; two runs that write at once have one each."""
    with NamedTemporaryFile(dir=path.parent, delete=False) as file:
        written = Path(file.name)
        try:
            yield file
            file.flush()
            written.chmod(0o644)
            written.replace(path)
        finally:
            written.unlink(missing_ok=True)
