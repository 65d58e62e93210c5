"""How much of each fault is injected: everything that was promised, or a few minutes of it.

`FAULTS=full` (`make test-faults`) shows the figures themselves, times included, and needs a quiet
machine; without it the same tests run short, and assert nothing that a busy machine could break.
"""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    full: bool
    kills: int  # SIGKILLs under write load
    stops: int  # SIGTERMs under load
    posts: int  # with one Idempotency-Key
    reads: int  # products that are looked for as soon as they are reported indexed
    soaked: int  # requests, after which nothing may have leaked
    batch: int  # items in one post
    overload_s: float
    slow_sockets: int

    @property
    def name(self) -> str:
        return "full" if self.full else "short"


_FULL = Scale(
    full=True,
    kills=100,
    stops=50,
    posts=1_000,
    reads=10_000,
    soaked=20_000,
    batch=10_000,
    overload_s=180.0,
    slow_sockets=500,
)
_SHORT = Scale(
    full=False,
    kills=3,
    stops=2,
    posts=100,
    reads=100,
    soaked=300,
    batch=200,
    overload_s=4.0,
    slow_sockets=100,
)


def asked_for() -> Scale:
    """By the environment; not an `LPR_*`, for the service refuses what is no setting of its own."""
    word = os.environ.get("FAULTS", "short")
    if word not in ("full", "short"):
        raise ValueError(f"FAULTS is full or short, not {word!r}")
    return _FULL if word == "full" else _SHORT
