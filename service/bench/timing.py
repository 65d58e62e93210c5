"""How long things take, compared: runs take turns, so whatever else the machine does meets all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

Run = Callable[[], float]
"""Does its work once and tells how many milliseconds that took."""


def timed(work: Callable[[], object]) -> Run:
    """`work`, timed by the wall."""

    def run() -> float:
        begun = time.perf_counter()
        work()
        return 1e3 * (time.perf_counter() - begun)

    return run


def take_turns(runs: Mapping[str, Run], rounds: int) -> dict[str, float]:
    """Median milliseconds of each run: once each to warm up, then `rounds` times in turn."""
    for run in runs.values():
        run()
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            taken[name].append(run())
    return {name: statistics.median(times) for name, times in taken.items()}


def of_speech(seen: Run, spoken: Run, rounds: int) -> dict[str, float]:
    """What a sentence costs: in turns of their own, for the idle threads of other sessions burn
    more than it does."""
    ms_seen, ms_spoken = take_turns({"seen": seen, "spoken": spoken}, rounds).values()
    return {
        "ms_seen": ms_seen,
        "ms_with_speech": ms_spoken,
        "speech_share": 1 - ms_seen / ms_spoken,
    }
