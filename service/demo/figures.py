"""What the answers of a demo amount to: recall, decisions, times. Pure arithmetic on answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

STAGES = ("queue", "decode", "detect", "encode", "search", "match", "total")
_INSIDE = ("decode", "detect", "encode")

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, as shares of the frame's centre square."""


@dataclass(frozen=True)
class Row:
    """One clip: the product it shows and what the service answered.

    `ranking` lists the candidates by their final score, `coarse_ranking` the same candidates by
    their coarse score alone. `wall_ms` is what the caller waited. `frames` were looked at; `boxes`
    has the product's in each of them, None where none was found, and is empty without a detector.
    """

    clip_id: str
    truth: str
    decision: str | None
    confidence: float
    ranking: tuple[str, ...]
    coarse_ranking: tuple[str, ...]
    timings_ms: dict[str, float]
    wall_ms: float
    frames: int
    boxes: tuple[Box | None, ...]

    @property
    def answer(self) -> str | None:
        """The product put first, decided or not."""
        return self.ranking[0] if self.ranking else None

    @property
    def right(self) -> bool:
        """Whether the product put first is the one shown."""
        return self.answer == self.truth


def row_of(clip_id: str, truth: str, answer: dict[str, Any], wall_ms: float) -> Row:
    """Reads the answer of POST /recognize."""
    candidates = answer["candidates"]
    decision = answer["decision"]
    found_boxes = answer["clip"]["boxes"]
    coarse = sorted(candidates, key=lambda candidate: -candidate["scores"]["coarse"])
    return Row(
        clip_id=clip_id,
        truth=truth,
        decision=decision["product_id"] if decision else None,
        confidence=float(candidates[0]["confidence"]) if candidates else 0.0,
        ranking=tuple(candidate["product_id"] for candidate in candidates),
        coarse_ranking=tuple(candidate["product_id"] for candidate in coarse),
        timings_ms={k: float(v) for k, v in answer["timings_ms"].items() if v is not None},
        wall_ms=wall_ms,
        frames=answer["clip"]["frames"],
        boxes=tuple(None if found is None else tuple(found["box"]) for found in found_boxes),
    )


@dataclass(frozen=True)
class Figures:
    """Shares are 0..1; None where nothing was there to count.

    `coarse_r1` ranks the answered candidates by their coarse score alone. `outside` is the median
    share of the caller's wait that went neither into decoding the clip nor into the networks that
    look at its frames, the detector and the encoder.
    """

    clips: int
    r1: float
    r5: float
    r10: float
    coarse_r1: float
    undecided: float
    decision_precision: float | None
    median_ms: dict[str, float]
    median_wall_ms: float
    outside: float


def _recall(rankings: Sequence[tuple[str, ...]], truths: Sequence[str], depth: int) -> float:
    hits = sum(truth in ranking[:depth] for ranking, truth in zip(rankings, truths, strict=True))
    return hits / len(truths)


def _outside(row: Row) -> float:
    return max(0.0, 1 - sum(row.timings_ms[stage] for stage in _INSIDE) / row.wall_ms)


def figures(rows: Sequence[Row]) -> Figures:
    """The figures of at least one row."""
    truths = [row.truth for row in rows]
    final = [row.ranking for row in rows]
    decided = [row for row in rows if row.decision is not None]
    return Figures(
        clips=len(rows),
        r1=_recall(final, truths, 1),
        r5=_recall(final, truths, 5),
        r10=_recall(final, truths, 10),
        coarse_r1=_recall([row.coarse_ranking for row in rows], truths, 1),
        undecided=1 - len(decided) / len(rows),
        decision_precision=(
            sum(row.decision == row.truth for row in decided) / len(decided) if decided else None
        ),
        median_ms={
            stage: median(row.timings_ms[stage] for row in rows)
            for stage in STAGES
            if all(stage in row.timings_ms for row in rows)
        },
        median_wall_ms=median(row.wall_ms for row in rows),
        outside=median(_outside(row) for row in rows),
    )
