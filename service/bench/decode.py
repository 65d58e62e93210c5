"""`lpr bench decode`: a clip to its few frames, against ffmpeg decoding all of it."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from service.bench import material
from service.bench.bare import decode_all
from service.bench.machine import describe
from service.bench.report import Report
from service.bench.timing import take_turns, timed
from service.inference.manifest import Dims, read_manifest
from service.media.clips import ClipDecoder
from service.settings import Settings


@dataclass(frozen=True)
class Case:
    seconds: float
    gop: int  # frames from key frame to key frame
    width: int = 720
    height: int = 1280
    rate: int = 25


# The first is the one that the report is about: a livestream's segment, a key frame every 2 s.
CASES = (Case(30, 50), Case(30, 250), Case(30, 750), Case(10, 50), Case(5, 25))


def decode(settings: Settings, rounds: int, cases: tuple[Case, ...] = CASES) -> Report:
    """Every case, each against the bare decoder in turns. Raises StartupError, ClipError."""
    dims = read_manifest(settings.bundle).dims
    decoder = ClipDecoder(settings.media)
    with tempfile.TemporaryDirectory(prefix="lpr-bench-") as folder:
        measured = [
            _measure(decoder, case, Path(folder) / "clip.mp4", rounds, dims) for case in cases
        ]
    first = measured[0]
    return Report(
        bench="decode",
        what=f"{dims.frames} frames of {_named(cases[0])}",
        ms=first["ms"],
        baseline="bare ffmpeg, the whole clip",
        baseline_ms=first["baseline_ms"],
        setting={
            "frames": dims.frames,
            "frame_size": _side(dims),
            "decode_threads": settings.media.decode_threads,
            "rounds": rounds,
            **asdict(cases[0]),
        },
        machine=describe(["CPUExecutionProvider"]),
        others_ms={"bare ffmpeg, its key frames alone": first["key_frames_ms"]},
        figures={"cases": measured, "confined_by": decoder.file_system},
    )


def _side(dims: Dims) -> int:
    """Of the frames that are decoded, in pixels."""
    return dims.frame_size or dims.image_size


def _measure(
    decoder: ClipDecoder, case: Case, path: Path, rounds: int, dims: Dims
) -> dict[str, Any]:
    clip = material.clip(path, **asdict(case))
    data, ffmpeg = clip.read_bytes(), material.ffmpeg()
    medians = take_turns(
        {
            "ms": timed(partial(decoder.decode, data, size=_side(dims), frames=dims.frames)),
            "baseline_ms": timed(partial(decode_all, ffmpeg, clip)),
            "key_frames_ms": timed(partial(decode_all, ffmpeg, clip, "-skip_frame", "nokey")),
        },
        rounds,
    )
    ratio = medians["baseline_ms"] / medians["ms"]
    return {"clip": _named(case), "bytes": len(data), **medians, "ratio": ratio}


def _named(case: Case) -> str:
    return (
        f"{case.seconds:g} s of {case.width}x{case.height}, "
        f"a key frame every {case.gop / case.rate:g} s"
    )
