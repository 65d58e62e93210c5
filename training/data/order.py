"""The order in which a run goes through millions of clips.

Blocks of neighbouring clips are shuffled, and then clips within a buffer of several blocks: a
batch is as good as random, yet what is read together lies together on the disk. An order is a
function of the seed and the position alone. So a run resumes at its step, with nothing to save;
and every process takes its own share of each batch by the same arithmetic.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

BLOCK = 1_000
BUFFER = 20_000  # clips, about 40 of img2dataset's shards


class ShuffledOrder:
    """Passes over `count` clips, each pass in another order."""

    def __init__(self, count: int, seed: int, *, block: int = BLOCK, buffer: int = BUFFER) -> None:
        if min(count, block, buffer) < 1:
            raise ValueError("count, block and buffer must be positive")
        self._count = count
        self._seed = seed
        self._block, self._buffer = block, buffer
        self._window = lru_cache(maxsize=2)(self._shuffled)

    def take(self, start: int, count: int) -> np.ndarray:
        """int64 [count]: the clips at these positions, on through as many passes as it takes."""
        return np.array([self._at(position) for position in range(start, start + count)])

    def share(self, step: int, batch: int, rank: int = 0, ranks: int = 1) -> np.ndarray:
        """int64 [batch]: what one of `ranks` processes draws in a step; together they take
        ranks * batch clips in a row."""
        return self.take((step * ranks + rank) * batch, batch)

    def _at(self, position: int) -> int:
        lap, place = divmod(position, self._count)
        window, within = divmod(place, self._buffer)
        return int(self._window(lap, window)[within])

    def _shuffled(self, lap: int, window: int) -> np.ndarray:
        """The clips of one buffer."""
        start = window * self._buffer
        places = np.arange(start, min(start + self._buffer, self._count))
        blocks = np.random.default_rng([self._seed, lap]).permutation(
            -(-self._count // self._block)
        )
        clips = self._through(blocks, places)
        return np.random.default_rng([self._seed, lap, window]).permutation(clips)

    def _through(self, blocks: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Places in the sequence of shuffled blocks -> clips. Only the last block may be short."""
        lengths = np.minimum(self._block, self._count - blocks * self._block)
        ends = np.cumsum(lengths)
        which = np.searchsorted(ends, places, side="right")
        inside = places - (ends[which] - lengths[which])
        clips: np.ndarray = blocks[which] * self._block + inside
        return clips
