"""Files that are there whole or not at all: a killed run must not leave half of one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to; it becomes `path` when the block ends well."""
    partial = path.with_suffix(".partial")
    yield partial
    partial.replace(path)
