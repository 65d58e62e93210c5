"""`lpr bench patches`: a clip with only some of its patches kept, against its whole frames.

A bundle whose detector does not look closer drops the patches outside the boxes; what that saves
depends on how many are left, and not on which.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from service.bench import material
from service.bench.report import Report
from service.bench.stage import Stage
from service.bench.timing import Run, take_turns, timed
from service.errors import BenchError

Point = dict[str, float]

_PICTURES = 16


def patches(stage: Stage, kept: list[int], candidates: int, rounds: int) -> Report:
    """`kept`: patches of each frame; without any, an eighth, a quarter and half of them.

    Raises BenchError where the bundle drops none, or a frame has fewer.
    """
    dims = stage.model.manifest.dims
    if stage.model.manifest.graphs.detector is None or dims.frame_size is not None:
        raise BenchError(
            "this bundle drops no patch: `lpr-train export --detector` makes one that does of a "
            "model that was trained with `intended_boxes`"
        )
    kept = kept or sorted({max(1, dims.patches // parts) for parts in (8, 4, 2)})
    if max(kept) > dims.patches:
        raise BenchError(f"a frame has {dims.patches} patches, so {max(kept)} cannot be kept")
    detecting, points = _measured(stage, [*kept, dims.patches], candidates, rounds)
    whole = points[-1]
    return Report(
        bench="patches",
        what=f"encoding and matching {kept[0]} of {dims.patches} patches a frame",
        ms=_both(points[0]),
        baseline="whole frames",
        baseline_ms=_both(whole),
        setting={
            **stage.setting,
            "frames": dims.frames,
            "patches": dims.patches,
            "candidates": candidates,
            "rounds": rounds,
        },
        machine=stage.machine,
        others_ms={"detecting": detecting},
        figures={"kept": [_compared(point, whole, detecting) for point in points]},
    )


def _measured(
    stage: Stage, counts: list[int], candidates: int, rounds: int
) -> tuple[float, list[Point]]:
    """Milliseconds of detecting, and by how many patches are kept; all of them in turns."""
    model, dims = stage.model, stage.model.manifest.dims
    frames = material.pixels(dims.frames, dims.image_size)
    states = model.encode_pictures(material.pixels(_PICTURES, dims.image_size)).match_state
    states = np.ascontiguousarray(states[np.arange(candidates) % len(states)])
    runs: dict[str, Run] = {"detect": timed(partial(model.detect, frames))}
    tokens = []
    for count in counts:
        mask = np.tile(np.arange(dims.patches) < count, (dims.frames, 1))
        clip = model.encode_clip(frames, patch_mask=mask)
        tokens.append(len(clip.keys))
        runs[f"encode {count}"] = timed(partial(model.encode_clip, frames, patch_mask=mask))
        runs[f"match {count}"] = timed(partial(model.match, states, clip))
    medians = take_turns(runs, rounds)
    return medians["detect"], [
        {
            "patches": count,
            "tokens": left,
            "encode_ms": medians[f"encode {count}"],
            "match_ms": medians[f"match {count}"],
        }
        for count, left in zip(counts, tokens, strict=True)
    ]


def _both(point: Point) -> float:
    return point["encode_ms"] + point["match_ms"]


def _compared(point: Point, whole: Point, detecting: float) -> Point:
    """How many times as fast as whole frames: part by part, together, and with detecting."""
    return point | {
        "encode_ratio": whole["encode_ms"] / point["encode_ms"],
        "match_ratio": whole["match_ms"] / point["match_ms"],
        "ratio": _both(whole) / _both(point),
        "ratio_with_detecting": _both(whole) / (_both(point) + detecting),
    }
