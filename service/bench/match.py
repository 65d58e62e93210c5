"""`lpr bench match`: a clip against many candidates, and the decoder pair by pair beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from service.bench import material
from service.bench.report import Report
from service.bench.rival import Rival, torch_rival
from service.bench.stage import Stage
from service.bench.timing import Run, take_turns, timed
from service.errors import BenchError, RivalMissingError
from service.inference.features import ClipFeatures

MOST_PAIRS = 600  # more take as much longer, for pair by pair nothing is shared: so it is reckoned
TOLERANCE = 1e-3  # of the logits, relative to the largest
_PICTURES = 16
_PAIRWISE = "torch, pair by pair as the papers' code"


@dataclass(frozen=True)
class _Match:
    """Match states [K,D] of a few pictures, taken in turn, and one clip."""

    states: Any
    clip: ClipFeatures
    frames: Any
    pictures: Any


def match(
    stage: Stage,
    candidates: int,
    rounds: int,
    checkpoint: Path | None,
    note: Callable[[str], None],
) -> Report:
    """`checkpoint`: the one that the bundle was exported from, so that the logits are compared; a
    bundle's recipe with random weights takes as long. `note` is told why there is no baseline.

    Raises BenchError where the two decoders differ.
    """
    given = _given(stage, candidates)
    runs: dict[str, Run] = {
        "matching": timed(lambda: stage.model.match(given.states, given.clip)),
        "encoding a clip": timed(lambda: stage.model.encode_clip(given.frames)),
    }
    source = str(checkpoint or stage.bundle.manifest.model.recipe)
    difference, compared = None, {}
    try:
        with torch_rival(source, given.pictures, given.frames, stage.threads) as rival:
            if checkpoint is not None:
                difference = _difference(stage, given, rival)
            runs[_PAIRWISE] = _pair_by_pair(rival, candidates)
            medians, compared = take_turns(runs, rounds), rival.setting
    except RivalMissingError as error:
        if checkpoint is not None:
            raise
        note(f"no baseline: {error}")
        runs.pop(_PAIRWISE, None)
        medians = take_turns(runs, rounds)
    matching, encoding = medians["matching"], medians["encoding a clip"]
    return Report(
        bench="match",
        what=f"matching {candidates:,} candidates with a clip",
        ms=matching,
        baseline=_PAIRWISE if _PAIRWISE in medians else None,
        baseline_ms=medians.get(_PAIRWISE),
        setting={
            **stage.setting,
            **compared,
            "candidates": candidates,
            "rounds": rounds,
            "pairs_measured": min(candidates, MOST_PAIRS),
        },
        machine=stage.machine,
        others_ms={"encoding a clip": encoding},
        figures={"share_of_encoding": matching / encoding, "logits_differ_by": difference},
    )


def _given(stage: Stage, candidates: int) -> _Match:
    dims = stage.model.manifest.dims
    pictures = material.pixels(_PICTURES, dims.image_size)
    frames = np.ascontiguousarray(pictures[::-1][: dims.frames])
    states = stage.model.encode_pictures(pictures).match_state
    turns = np.arange(candidates) % len(states)
    clip = stage.model.encode_clip(frames)
    return _Match(np.ascontiguousarray(states[turns]), clip, frames, pictures)


def _pair_by_pair(rival: Rival, candidates: int) -> Run:
    pairs = min(candidates, MOST_PAIRS)

    def run() -> float:
        return float(rival.ask("match", candidates=pairs)["ms"]) * candidates / pairs

    return run


def _difference(stage: Stage, given: _Match, rival: Rival) -> float:
    """The largest, relative to the largest logit."""
    pairs = rival.ask("match", candidates=min(len(given.states), _PICTURES))["logits"]
    ours = stage.model.match(given.states[: len(pairs)], given.clip)
    difference = float(np.abs(ours - pairs).max() / np.abs(pairs).max())
    if difference > TOLERANCE and stage.bundle.manifest.precision == "fp32":
        raise BenchError(
            f"the bundle and its checkpoint differ by {difference:.1e} of the largest logit: "
            "is it the one that the bundle was exported from?"
        )
    return difference
