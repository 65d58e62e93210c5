"""`lpr bench recognize`: one clip after the other over HTTP, against bare decode and encode.

Of a bundle that reads also what a clip takes with a sentence that is spoken.
"""

from __future__ import annotations

import statistics
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from service.bench import material
from service.bench.bare import BareSession, decode_all
from service.bench.report import Report
from service.bench.stage import Stage, hot_shop, service
from service.bench.timing import of_speech, take_turns, timed
from service.client import Client

SECONDS, WIDTH, HEIGHT, RATE, GOP = 10.0, 1280, 720, 25, 50


def recognize(stage: Stage, pictures: int, rounds: int) -> Report:
    """A service of its own with one shop; nothing else is asked of it. Raises BenchError."""
    dims = stage.model.manifest.dims
    frames = material.pixels(dims.frames, dims.image_size)
    bare = BareSession(stage.bundle, "clip_encoder", stage.model.providers)
    with tempfile.TemporaryDirectory(prefix="lpr-bench-") as folder:
        clip = bench_clip(Path(folder))
        with service(stage.settings) as client:
            hot_shop(client, pictures)
            stages = _Stages(client, clip.read_bytes())
            medians = take_turns(
                {
                    "service": timed(stages.ask),
                    "bare decode": timed(lambda: decode_all(material.ffmpeg(), clip)),
                    "bare encoder session": timed(lambda: bare.run(frames[None])),
                },
                rounds,
            )
            taken, spoken = stages.medians(), {}
            if stage.model.manifest.text is not None:
                said = timed(lambda: stages.ask(material.SPEECH))
                spoken = of_speech(timed(stages.ask), said, rounds)
    ours = medians.pop("service")
    return Report(
        bench="recognize",
        what=f"POST /recognize of {SECONDS:g} s of 720p, a hot shop of {pictures:,}",
        ms=ours,
        baseline="bare decode + bare encoder session",
        baseline_ms=sum(medians.values()),
        setting={
            **stage.setting,
            "shop": pictures,
            "clip_s": SECONDS,
            "clip": f"{WIDTH}x{HEIGHT}, {RATE} frames a second, a key frame every {GOP / RATE:g} s",
            "rounds": rounds,
        },
        machine=stage.machine,
        others_ms=medians,
        figures={
            "stages_ms": taken,
            "times_the_baseline": ours / sum(medians.values()),
            "share_of_detecting": taken["detect"] / taken["total"],  # 0 without a detector
            **spoken,
        },
    )


def bench_clip(folder: Path, seconds: float = SECONDS) -> Path:
    """A clip of 720p, as it is sent."""
    return material.clip(
        folder / "clip.mp4", seconds=seconds, width=WIDTH, height=HEIGHT, rate=RATE, gop=GOP
    )


class _Stages:
    """Asks, and notes what the answers say of where the time went."""

    def __init__(self, client: Client, clip: bytes) -> None:
        self._client = client
        self._clip = clip
        self._taken: dict[str, list[float]] = defaultdict(list)

    def ask(self, speech: str | None = None) -> None:
        answer: dict[str, Any] = self._client.recognize(material.SHOP, self._clip, speech=speech)
        for name, ms in answer["timings_ms"].items():
            self._taken[name].append(ms)

    def medians(self) -> dict[str, float]:
        return {name: statistics.median(taken) for name, taken in self._taken.items()}
