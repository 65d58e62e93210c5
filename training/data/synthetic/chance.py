"""Drawing by chance, always from a generator that is passed in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from numpy.random import Generator

Item = TypeVar("Item")


def pick(items: Sequence[Item], rng: Generator) -> Item:
    """One of them, each as likely."""
    return items[int(rng.integers(len(items)))]
