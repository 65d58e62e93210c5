"""The same work over many jobs, on all cores where that pays; results in the order of the jobs."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

Progress = Callable[[int, int], None]
"""Told how many jobs are done, and of how many."""

WORTH_PROCESSES = 8
"""Fewer jobs than this are done here: starting Python anew would cost more than it saves."""


def each(
    work: Callable[[Job], Result],
    jobs: Sequence[Job],
    progress: Progress | None = None,
    *,
    processes: int | None = None,
) -> list[Result]:
    """`work` of every job. Both must be picklable: the processes are spawned, not forked."""
    count = min(processes or os.cpu_count() or 1, len(jobs))
    results: list[Result] = []
    if count <= 1 or len(jobs) < WORTH_PROCESSES:
        for done, job in enumerate(jobs, start=1):
            results.append(work(job))
            if progress:
                progress(done, len(jobs))
        return results
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context) as pool:
        for done, result in enumerate(pool.map(work, jobs), start=1):
            results.append(result)
            if progress:
                progress(done, len(jobs))
    return results
