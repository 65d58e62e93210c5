"""Finds encoded pictures by reference. Knows nothing of what they show and decodes none."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

from training.data.errors import DataError


class Size(NamedTuple):
    """Of the original, in pixels."""

    width: int
    height: int


class Pictures(Protocol):
    """Finds pictures by reference."""

    def __contains__(self, reference: str) -> bool: ...

    def read(self, reference: str) -> bytes:
        """The encoded picture; raises DataError naming it where it is missing."""

    def original_size(self, reference: str) -> Size | None:
        """The size that boxes in pixels refer to; None: the picture is as it was."""


class FilePictures:
    """References are paths below a folder, in which there may be links to other disks: they are
    the user's own. A reference comes with the data, and leads nowhere else."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __contains__(self, reference: str) -> bool:
        return self._path(reference).is_file()

    def read(self, reference: str) -> bytes:
        try:
            return self._path(reference).read_bytes()
        except OSError as error:
            raise DataError(f"{self._folder / reference}: {error.strerror}") from error

    def original_size(self, reference: str) -> Size | None:
        return None

    def _path(self, reference: str) -> Path:
        path = Path(reference)
        if path.is_absolute() or ".." in path.parts:
            raise DataError(f"{reference!r} leads out of {self._folder}")
        return self._folder / path
