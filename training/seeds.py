"""Seeds of a run's randomness, each of one step and one stream.

torch's generator on a CPU reads the low 32 bits of a seed and no others.
"""

from __future__ import annotations

from numpy.random import SeedSequence


def seed_of(seed: int, step: int, stream: int = 0) -> int:
    """Of a process or a source, its stream; below 2^32."""
    return int(SeedSequence([seed, step, stream]).generate_state(1)[0])
