"""Load for the tests that break things: `service.bench.traffic`, and what only they need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread

import httpx

from service.bench.traffic import FAILED, Prepared, Sample, Samples, closed_loop, open_loop

__all__ = [
    "FAILED",
    "Prepared",
    "Sample",
    "Samples",
    "closed_loop",
    "in_lanes",
    "open_loop",
    "slug_of",
]


@contextmanager
def in_lanes(lanes: int, work: Callable[[int], None]) -> Iterator[None]:
    """`work(lane)` on threads beside the block; waited for at its end, their errors raised."""
    errors: list[BaseException] = []

    def run(lane: int) -> None:
        try:
            work(lane)
        except BaseException as error:  # noqa: BLE001 - raised below, on the thread that waits
            errors.append(error)

    threads = [Thread(target=run, args=(lane,)) for lane in range(lanes)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]


def slug_of(response: httpx.Response) -> str:
    if response.headers.get("content-type") != "application/problem+json":
        return ""
    return str(response.json()["type"]).rsplit("/", 1)[-1]
