"""Traffic for a service, and what came of it.

Open loop: requests leave when they are due, whether or not those before them were answered, and
each is timed from when it was due. So a service that falls behind cannot slow its own test down.
Nor is the traffic slow itself: what its process has imported is kept from the garbage collector,
which takes hundreds of milliseconds to go through that.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import random
import re
import time
from collections import Counter
from collections.abc import Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

FAILED = 0  # the status of a request that got no answer
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Prepared:
    """A request as bytes, made once: the load must not be the one who is slow."""

    path: str
    wire: bytes

    @classmethod
    def post(cls, path: str, **content: Any) -> Prepared:
        """As httpx would send it, e.g. `data={...}, files={...}`, on a connection of its own."""
        request = httpx.Request("POST", f"http://service{path}", **content)
        body = request.read()
        request.headers["connection"] = "close"
        head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        return cls(path, f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body)


@dataclass(frozen=True)
class Sample:
    path: str
    due: float  # seconds since the load began
    seconds: float  # from then to the end of the answer
    lag: float  # of it, until the load got round to sending it
    status: int
    slug: str  # of a problem; of a failure, its kind


class Samples(list[Sample]):
    def of(self, *statuses: int) -> Samples:
        return Samples(sample for sample in self if sample.status in statuses)

    def to(self, path: str) -> Samples:
        return Samples(sample for sample in self if sample.path == path)

    def after(self, due: float) -> Samples:
        return Samples(sample for sample in self if sample.due >= due)

    def counts(self) -> dict[int, int]:
        return dict(sorted(Counter(sample.status for sample in self).items()))

    def slugs(self) -> dict[str, int]:
        return dict(Counter(f"{sample.status} {sample.slug}" for sample in self).most_common())

    def quantile_ms(self, share: float) -> float:
        return _quantile_ms(share, (sample.seconds for sample in self))

    def p99_ms(self) -> float:
        return self.quantile_ms(0.99)

    def lag_p99_ms(self) -> float:
        return _quantile_ms(0.99, (sample.lag for sample in self))


def _quantile_ms(share: float, seconds: Iterable[float]) -> float:
    """By nearest rank; 0 of none."""
    ordered = sorted(seconds)
    return 1e3 * ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def open_loop(
    url: str, requests: Sequence[Prepared], *, per_s: float, for_s: float, seed: int = 0
) -> Samples:
    """Poisson arrivals of requests drawn evenly from `requests`; returns when all are answered."""

    async def load() -> Samples:
        samples, rng = Samples(), random.Random(seed)  # noqa: S311 - arrivals, not secrets
        async with asyncio.TaskGroup() as tasks:
            start, due = time.perf_counter(), 0.0
            while (due := due + rng.expovariate(per_s)) < for_s:
                await asyncio.sleep(max(0.0, start + due - time.perf_counter()))
                request = rng.choice(requests)
                tasks.create_task(_send(url, request, start + due, start, samples))
        return samples

    return _undisturbed(load())


def closed_loop(url: str, requests: Sequence[Prepared], *, lanes: int, for_s: float) -> Samples:
    """`lanes` clients that each send one request after the other."""

    async def load() -> Samples:
        samples, start = Samples(), time.perf_counter()
        following = itertools.cycle(requests)

        async def lane() -> None:
            while (now := time.perf_counter()) < start + for_s:
                await _send(url, next(following), now, start, samples)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(lanes):
                tasks.create_task(lane())
        return samples

    return _undisturbed(load())


def _undisturbed(load: Coroutine[Any, Any, Samples]) -> Samples:
    gc.collect()
    gc.freeze()
    try:
        return asyncio.run(load)
    finally:
        gc.unfreeze()


async def _send(url: str, request: Prepared, due: float, start: float, samples: Samples) -> None:
    """Over bare streams: a full HTTP client takes longer over a request than a refusal does."""
    address = urlsplit(url)
    lag = time.perf_counter() - due
    try:
        async with asyncio.timeout(_PATIENCE_S):
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
            try:
                writer.write(request.wire)
                answer = await reader.read()
            finally:
                writer.transport.abort()
        status, slug = _status(answer), _slug(answer)
    except (OSError, TimeoutError) as error:
        status, slug = FAILED, type(error).__name__
    seconds = time.perf_counter() - due
    samples.append(Sample(request.path, due - start, seconds, lag, status, slug))


def _status(answer: bytes) -> int:
    found = re.match(rb"HTTP/1.1 (\d{3}) ", answer)
    return int(found[1]) if found else FAILED


def _slug(answer: bytes) -> str:
    found = re.search(rb'"type":"/problems/([^"]*)"', answer)
    return found[1].decode() if found else ""
