"""Scores models on the data that their recipe is judged on, told by a bar."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.progress import Progress

from training.checkpoint import Checkpoint, DetectorCheckpoint
from training.configs import Recipe
from training.data.given import judged_set
from training.data.queries import QuerySet
from training.data.sets import JudgedSet
from training.evaluation import detection, protocol
from training.evaluation.scorers import Scorer, TorchScorer
from training.tasks import task_of


class Judge:
    """The splits of a recipe's data, each opened when it is first asked for."""

    def __init__(
        self,
        recipe: Recipe,
        folders: Mapping[str, Path],
        bars: Progress,
        detector: DetectorCheckpoint | None = None,
    ) -> None:
        """With `detector`, only patches of what it finds take part."""
        self._recipe = recipe
        self._folders = folders
        self._bars = bars
        self._boxes = None if detector is None else detected_boxes(detector)
        self._opened: dict[str, JudgedSet] = {}

    def data(self, split: str) -> JudgedSet:
        """`val` or `test`. Raises DataError."""
        if split not in self._opened:
            self._opened[split] = judged_set(self._recipe, self._folders, split, self._bars)
        return self._opened[split]

    def scores(
        self, scorer: Scorer, split: str, *, takes: int = 1, hearing: protocol.Hearing = "right"
    ) -> protocol.Scores:
        """As `protocol.score` does it. Raises DataError."""
        data = self.data(split)
        clips = len(data.queries) if isinstance(data, QuerySet) else takes * len(data.clips())
        task = self._bars.add_task("clips", total=clips)
        return protocol.score(
            scorer, data, takes=takes, boxes=self._boxes, hearing=hearing,
            done=lambda: self._bars.advance(task),
        )  # fmt: skip

    def val_scores(self, scorer: Scorer) -> dict[protocol.Hearing, protocol.Scores]:
        """What fusion and calibration are chosen on. Raises DataError."""

        def scores(hearing: protocol.Hearing) -> protocol.Scores:
            return self.scores(scorer, "val", takes=protocol.VAL_TAKES, hearing=hearing)

        return protocol.heard(scores)


def scorer_of(kept: Checkpoint, device: str = "cpu") -> Scorer:
    """The checkpoint's model, reading with its own tokenizer."""
    model = kept.model().to(device)
    task_of(kept.recipe).lock(model)
    return TorchScorer(model, kept.text_tokenizer())


def detected_boxes(kept: DetectorCheckpoint) -> protocol.Boxes:
    """The intended product where the checkpoint's detector finds it."""
    detector, threshold = kept.detector(), kept.threshold
    return lambda frames: detection.intended_boxes(detector, frames, threshold)
