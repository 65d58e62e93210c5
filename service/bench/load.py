"""`lpr bench load`: an open loop of clips at a service, up to what it can take and below it."""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from service.bench import material
from service.bench.bare import BareSession
from service.bench.recognize import bench_clip
from service.bench.report import Report
from service.bench.stage import Stage, hot_shop, service
from service.bench.traffic import FAILED, Prepared, Samples, closed_loop, open_loop
from service.errors import BenchError

SHARE = 0.8  # of saturation, where latency is told
_BEYOND = (1.0, 1.15)  # of what lanes reached: saturation is where more arrives than is answered
_QUANTILES = (0.5, 0.9, 0.95, 0.99)
_BELOW = 4  # times as long, for quantiles want many requests
_FEWEST = 5  # requests of a level, on a slow machine
_LANES = 4
_OK = 200


@dataclass(frozen=True)
class _Level:
    """Open-loop traffic at one rate."""

    per_s: float
    for_s: float
    samples: Samples

    @property
    def answered_per_s(self) -> float:
        """From the first arrival to the last answer."""
        answered = self.samples.of(_OK)
        if not answered:
            return 0.0
        last = max(sample.due + sample.seconds for sample in answered)
        return len(answered) / max(last, self.for_s)

    def to_json(self) -> dict[str, Any]:
        answered = self.samples.of(_OK)
        quantiles = {f"p{round(100 * q)}_ms": answered.quantile_ms(q) for q in _QUANTILES}
        return {
            "per_s": self.per_s,
            "for_s": self.for_s,
            "requests": len(self.samples),
            "answered_per_s": self.answered_per_s,
            **quantiles,
            "errors": _errors(self.samples),
            "lost": len(self.samples.of(FAILED)),
        }


def load(stage: Stage, pictures: int, seconds: float, *, as_frames: bool) -> Report:
    """A service of its own with one hot shop; each level lasts `seconds`, the last one longer.

    `as_frames`: clips are sent as pictures, so that no video is decoded. Raises BenchError.
    """
    dims = stage.model.manifest.dims
    pixels = material.pixels(dims.frames, dims.image_size)
    bare = BareSession(stage.bundle, "clip_encoder", stage.model.providers)
    with service(stage.settings) as client:
        hot_shop(client, pictures)
        requests = [_as_frames(pixels) if as_frames else _as_clip()]
        client.recognize_frames(material.SHOP, [_jpeg(pixels[0])])  # the shop is hot from here on
        before = _bare_clips_per_s(bare, pixels, seconds / 4)
        reached = _reached(client.base_url, requests, seconds)
        levels = [_level(client.base_url, requests, reached * share, seconds) for share in _BEYOND]
        saturation = max(reached, *(level.answered_per_s for level in levels))
        below = _level(client.base_url, requests, SHARE * saturation, _BELOW * seconds)
        after = _bare_clips_per_s(bare, pixels, seconds / 4)
    limit = (before + after) / 2
    told = below.to_json()
    return Report(
        bench="load",
        what="a clip at saturation",
        ms=1e3 / saturation,
        baseline="bare encoder session, one clip after the other",
        baseline_ms=1e3 / limit,
        setting={
            **stage.setting,
            "shop": pictures,
            "sent_as": "frames" if as_frames else "10 s of 720p",
            "seconds": seconds,
        },
        machine=stage.machine,
        figures={
            "saturation_clips_per_s": saturation,
            "baseline_clips_per_s": limit,
            f"at_{round(100 * SHARE)}_percent": told,
            "p99_over_p50": told["p99_ms"] / told["p50_ms"] if told["p50_ms"] else None,
            "lost": sum(len(level.samples.of(FAILED)) for level in (*levels, below)),
            "levels": [level.to_json() for level in levels],
        },
    )


def concurrency(stage: Stage, pictures: int, lanes: Sequence[int], seconds: float) -> Report:
    """Clips/s and latency of 1 and more clients that each send one clip after the other."""
    points: list[dict[str, Any]] = []
    with service(stage.settings) as client:
        hot_shop(client, pictures)
        requests = [_as_clip()]
        for count in (lanes[0], *lanes):  # once more: the first warms up
            begun = time.perf_counter()
            samples = closed_loop(client.base_url, requests, lanes=count, for_s=seconds)
            answered = samples.of(_OK)
            points.append(
                {
                    "clients": count,
                    "clips_per_s": len(answered) / (time.perf_counter() - begun),
                    "p50_ms": answered.quantile_ms(0.5),
                    "p99_ms": answered.p99_ms(),
                    "errors": _errors(samples),
                }
            )
    alone, best = points[1], max(points[1:], key=lambda point: point["clips_per_s"])
    if not alone["clips_per_s"]:
        raise BenchError(f"not a clip was answered: {alone['errors']}")
    return Report(
        bench="concurrency",
        what=f"a clip, of {best['clients']} clients at once",
        ms=1e3 / best["clips_per_s"],
        baseline="one client alone",
        baseline_ms=1e3 / alone["clips_per_s"],
        setting={**stage.setting, "shop": pictures, "seconds": seconds},
        machine=stage.machine,
        figures={"points": points[1:]},
    )


def _errors(samples: Samples) -> dict[str, int]:
    """How many, by status and kind; status 0 is a request that was lost."""
    return {kind: n for kind, n in samples.slugs().items() if not kind.startswith(f"{_OK} ")}


def _level(url: str, requests: Sequence[Prepared], per_s: float, for_s: float) -> _Level:
    for_s = max(for_s, _FEWEST / per_s)
    return _Level(per_s, for_s, open_loop(url, requests, per_s=per_s, for_s=for_s))


def _reached(url: str, requests: Sequence[Prepared], seconds: float) -> float:
    """Clips/s of a few clients that each send one clip after the other."""
    begun = time.perf_counter()
    samples = closed_loop(url, requests, lanes=_LANES, for_s=seconds)
    return max(1, len(samples.of(_OK))) / (time.perf_counter() - begun)


def _bare_clips_per_s(bare: BareSession, pixels: Any, seconds: float) -> float:
    bare.run(pixels[None])
    begun, clips = time.perf_counter(), 0
    while clips == 0 or time.perf_counter() - begun < seconds:
        bare.run(pixels[None])
        clips += 1
    return clips / (time.perf_counter() - begun)


def _as_clip() -> Prepared:
    with tempfile.TemporaryDirectory(prefix="lpr-bench-") as folder:
        data = bench_clip(Path(folder)).read_bytes()
    return Prepared.post(
        "/recognize", data={"shop_id": material.SHOP}, files={"clip": ("clip.mp4", data)}
    )


def _as_frames(pixels: Any) -> Prepared:
    files = [("frames", (f"{place}.jpg", _jpeg(frame))) for place, frame in enumerate(pixels)]
    return Prepared.post("/recognize", data={"shop_id": material.SHOP}, files=files)


def _jpeg(frame: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=92)
    return file.getvalue()
