"""`lpr bench scale`: what a recognition costs as shops, galleries and their number grow.

Search and matching as the service does them, on made-up vectors of the bundle's lengths: in memory
(`hot`), by the first clip of a cold shop (`cold`), and by Milvus alone (`index`). Milvus is the
one that the settings name, embedded or a server. Encoding does not depend on any of this.
"""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from service.bench import material
from service.bench.report import Report
from service.bench.stage import Stage
from service.bench.timing import take_turns, timed
from service.errors import BenchError
from service.gallery.entries import Entries, Picture
from service.gallery.index import VectorIndex, WriteTime
from service.gallery.shops import HotShops
from service.inference.features import ClipFeatures
from service.telemetry import Telemetry

Kind = Literal["shop", "gallery", "shops"]
SIZES: dict[Kind, tuple[int, ...]] = {
    "shop": (100, 300, 1_000, 2_000, 10_000, 100_000),  # pictures of one shop
    "gallery": (600, 6_000, 60_000, 240_000, 1_000_000),  # pictures of shops of 600
    "shops": (1, 100, 1_000, 10_000),  # shops of 6 pictures
}
PICTURES: dict[Kind, int] = {"gallery": 600, "shops": 6}
_WRITTEN_AT_ONCE = 3_000
_FILLING_TIMEOUT_S = 60.0  # of a call to Milvus: an embedded one is slow to take in so much at once
_LOADING_S = 60.0


class _Epochs:
    """One epoch for ever: nothing is written while shops are looked at."""

    def read(self, shop_id: str) -> str | None:
        return f"{shop_id}-1"


@dataclass(frozen=True)
class _Gallery:
    """An index of its own, and what is asked of it."""

    stage: Stage
    index: VectorIndex
    clip: ClipFeatures
    rng: np.random.Generator

    def write(self, shop_id: str, pictures: int, until: float) -> int:
        """How many of them are there by the time `until`, one batch at least."""
        written = 0
        while written < pictures and (written == 0 or time.perf_counter() < until):
            end = min(pictures, written + _WRITTEN_AT_ONCE)
            self.index.upsert(self._entries(shop_id, written, end))
            written = end
        return written

    def _entries(self, shop_id: str, start: int, end: int) -> Entries:
        dims = self.stage.model.manifest.dims
        embeddings = self.rng.standard_normal((end - start, dims.embedding), np.float32)
        return Entries(
            shop_id,
            tuple(Picture(f"{place}", None, f"{place}") for place in range(start, end)),
            embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True),
            self.rng.standard_normal((end - start, dims.match_state), np.float32),
        )

    def measure(self, shop_id: str, pictures: int, rounds: int) -> dict[str, float]:
        """Milliseconds to the logits of a clip's candidates in one shop, by where they come from.

        A shop beyond `exact_limit` is never waited for: its first clips are answered by the index.
        One too large for memory is never hot: `hot` is then what Milvus takes, as served.
        """
        settings = self.stage.settings.search
        shops = HotShops(self.index, _Epochs(), settings)
        embedding = self.clip.embedding

        def ask() -> None:
            self.stage.model.match(shops.candidates(shop_id, embedding).states, self.clip)

        def ask_cold() -> None:
            shops.clear()
            ask()

        def ask_index() -> None:
            found = self.index.search(shop_id, embedding, settings.candidates)
            self.stage.model.match(found.states, self.clip)

        try:
            ask()
            if pictures <= settings.hot_limit:
                _wait_hot(shops)
            taken = take_turns({"hot": timed(ask), "index": timed(ask_index)}, rounds)
            if pictures <= settings.exact_limit:
                taken |= take_turns({"cold": timed(ask_cold)}, rounds)
        finally:
            shops.close()
        return taken


def scale(stage: Stage, kind: Kind, sizes: Sequence[int], rounds: int, budget_s: float) -> Report:
    """One point a size, smallest first; the last is what `budget_s` of filling was enough for."""
    dims = stage.model.manifest.dims
    frames = material.pixels(dims.frames, dims.image_size)
    encoding = take_turns({"": timed(lambda: stage.model.encode_clip(frames))}, rounds)[""]
    with _gallery(stage, stage.model.encode_clip(frames)) as gallery:
        points = _points(gallery, kind, sorted(sizes), rounds, budget_s)
    last = points[-1]
    return Report(
        bench=f"scale-{kind}",
        what=f"search and matching, hot: {last[kind]:,} {_UNITS[kind]}",
        ms=last["hot"],
        baseline=f"the same: {points[0][kind]:,} {_UNITS[kind]}",
        baseline_ms=points[0]["hot"],
        setting={
            **stage.setting,
            "milvus": "embedded" if gallery.index.embedded else "server",
            "exact_limit": stage.settings.search.exact_limit,
            "rounds": rounds,
            "budget_s": budget_s,
            "sizes_asked_for": sorted(sizes),
        },
        machine=stage.machine,
        others_ms={"encoding a clip": encoding},
        figures={"points": points},
    )


_UNITS: dict[Kind, str] = {
    "shop": "pictures in the shop",
    "gallery": "pictures in shops of 600",
    "shops": "shops of 6 pictures",
}


def _points(
    gallery: _Gallery, kind: Kind, sizes: Sequence[int], rounds: int, budget_s: float
) -> list[dict[str, Any]]:
    points: list[dict[str, Any]] = []
    filling_s, reached = 0.0, 0
    for size in sizes:
        begun = time.perf_counter()
        until = begun + budget_s - filling_s
        shop_id, pictures, reached = _grown(gallery, kind, reached, size, until)
        filling_s += time.perf_counter() - begun
        points.append({kind: reached, **gallery.measure(shop_id, pictures, rounds)})
        if reached < size:
            break
    return points


def _grown(
    gallery: _Gallery, kind: Kind, reached: int, size: int, until: float
) -> tuple[str, int, int]:
    """The shop that is looked at, its pictures, and the size that was reached in time."""
    if kind == "shop":
        written = gallery.write(f"shop-{size}", size, until)
        return f"shop-{size}", written, written
    each = PICTURES[kind]
    step = each if kind == "gallery" else 1  # by which one shop more makes it larger
    while reached < size and (reached == 0 or time.perf_counter() < until):
        gallery.write(f"shop-{reached // step}", each, until)
        reached += step
    return "shop-0", each, reached


def _wait_hot(shops: HotShops) -> None:
    """A larger shop is loaded in the background. Raises BenchError."""
    deadline = time.monotonic() + _LOADING_S
    while shops.bytes == 0:
        if time.monotonic() > deadline:
            raise BenchError(f"the shop was not in memory after {_LOADING_S:.0f} s")
        time.sleep(0.01)


@contextmanager
def _gallery(stage: Stage, clip: ClipFeatures) -> Iterator[_Gallery]:
    dims = stage.model.manifest.dims
    with tempfile.TemporaryDirectory(prefix="lpr-bench-") as folder:
        index = VectorIndex(
            stage.settings.milvus.model_copy(update={"timeout_s": _FILLING_TIMEOUT_S}),
            Path(folder) / "milvus.db",
            catalogue_id=f"bench{secrets.token_hex(4)}",
            bundle_id=stage.model.manifest.bundle_id,
            telemetry=Telemetry({}),
            written=WriteTime(),
            embedding=dims.embedding,
            match_state=dims.match_state,
        )
        try:
            index.complete()
            yield _Gallery(stage, index, clip, np.random.default_rng(0))
        finally:
            index.drop()
            index.close()
