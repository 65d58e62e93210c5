"""`lpr bench encode`: a clip's frames through the encoder, against the bare session and torch.

Of a bundle that reads also what a clip takes with a sentence that is spoken.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from service.bench import material
from service.bench.bare import BareSession, Pixels
from service.bench.report import Report
from service.bench.rival import torch_rival
from service.bench.stage import Stage
from service.bench.timing import Run, of_speech, take_turns, timed
from service.errors import RivalMissingError

_BARE = "bare onnxruntime session"
_EAGER = "torch eager"


def encode(
    stage: Stage, rounds: int, checkpoint: Path | None, note: Callable[[str], None]
) -> Report:
    """torch runs the checkpoint, or random weights of the bundle's recipe, which take as long.

    `note` is told why there is no torch to compare with.
    """
    dims = stage.model.manifest.dims
    frames = material.pixels(dims.frames, dims.image_size)
    bare = BareSession(stage.bundle, "clip_encoder", stage.model.providers)
    runs: dict[str, Run] = {
        "service": timed(lambda: stage.model.encode_clip(frames)),
        _BARE: timed(lambda: bare.run(frames[None])),
    }
    source = str(checkpoint or stage.bundle.manifest.model.recipe)
    compared = {}
    try:
        with torch_rival(source, frames[:1], frames, stage.threads) as rival:
            runs[_EAGER] = lambda: float(rival.ask("encode")["ms"])
            medians, compared = take_turns(runs, rounds), rival.setting
    except RivalMissingError as error:
        note(f"without torch: {error}")
        runs.pop(_EAGER, None)
        medians = take_turns(runs, rounds)
    ours = medians.pop("service")
    baseline_ms = medians.pop(_BARE)
    return Report(
        bench="encode",
        what=f"encoding a clip of {dims.frames} frames",
        ms=ours,
        baseline=_BARE,
        baseline_ms=baseline_ms,
        setting={**stage.setting, **compared, "frames": dims.frames, "rounds": rounds},
        machine=stage.machine,
        others_ms=medians,
        figures={"clips_per_s": 1e3 / ours, **_of_speech(stage, frames, rounds)},
    )


def _of_speech(stage: Stage, frames: Pixels, rounds: int) -> dict[str, float]:
    if stage.model.manifest.text is None:
        return {}
    return of_speech(
        timed(lambda: stage.model.encode_clip(frames)),
        timed(lambda: stage.model.encode_clip(frames, material.SPEECH)),
        rounds,
    )
