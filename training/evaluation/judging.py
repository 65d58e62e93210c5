"""Scores models on the data that their recipe is judged on, or on other data, told by a bar."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.progress import Progress

from training.checkpoint import Checkpoint, DetectorCheckpoint
from training.configs import Recipe
from training.data.given import any_set, judged_set
from training.data.queries import QuerySet
from training.data.sets import JudgedSet
from training.evaluation import protocol
from training.evaluation.hearings import Hearing
from training.evaluation.scorers import Scorer, TorchScorer
from training.evaluation.scores import Scores
from training.tasks import task_of


class Judge:
    """The splits of a data set, each opened when it is first asked for."""

    def __init__(self, opened: Callable[[str], JudgedSet], bars: Progress) -> None:
        """`opened` gives `val` or `test`; raises DataError."""
        self._open = opened
        self._bars = bars
        self._opened: dict[str, JudgedSet] = {}

    @classmethod
    def of(
        cls, recipe: Recipe, folders: Mapping[str, Path], bars: Progress, side: int | None = None
    ) -> Judge:
        """What the recipe is judged on. Photographs have sides of `side` pixels, where a scorer
        asks for larger ones than the recipe does."""
        return cls(lambda split: judged_set(recipe, folders, split, bars, side), bars)

    @classmethod
    def on(cls, folder: Path, scorer: Scorer, bars: Progress, *, val: str = "val") -> Judge:
        """A data set of any layout, for this scorer; the split `val` stands for val."""

        def opened(split: str) -> JudgedSet:
            split = val if split == "val" else split
            return any_set(folder, split, scorer.size, bars, scorer.frame_size)

        return cls(opened, bars)

    def data(self, split: str) -> JudgedSet:
        """`val` or `test`. Raises DataError."""
        if split not in self._opened:
            self._opened[split] = self._open(split)
        return self._opened[split]

    def scores(
        self,
        scorer: Scorer,
        split: str,
        *,
        takes: int = 1,
        hearings: Sequence[Hearing] = ("right",),
    ) -> dict[Hearing, Scores]:
        """As `protocol.score` does it. Raises DataError."""
        data = self.data(split)
        done = self._bar(data, takes)
        return protocol.score(scorer, data, takes=takes, hearings=hearings, done=done)

    def val_scores(self, scorer: Scorer, takes: int = protocol.VAL_TAKES) -> dict[Hearing, Scores]:
        """What fusion and calibration are chosen on. Raises DataError."""
        data = self.data("val")
        return protocol.score_heard(scorer, data, takes=takes, done=self._bar(data, takes))

    def _bar(self, data: JudgedSet, takes: int) -> Callable[[], None]:
        """What is to be called a clip."""
        clips = len(data.queries) if isinstance(data, QuerySet) else takes * len(data.clips())
        task = self._bars.add_task("clips", total=clips)
        return lambda: self._bars.advance(task)


def judges_on(
    scorer: Scorer, bars: Progress, unseen: Sequence[Path], unseen_test: Sequence[Path]
) -> list[Judge]:
    """Of data sets whose val, or test, chooses fusion too."""
    return [
        *(Judge.on(folder, scorer, bars) for folder in unseen),
        *(Judge.on(folder, scorer, bars, val="test") for folder in unseen_test),
    ]


def scorer_of(
    kept: Checkpoint, device: str = "cpu", detector: DetectorCheckpoint | None = None
) -> TorchScorer:
    """The checkpoint's model, reading with its own tokenizer, and looking where the detector finds
    the intended product."""
    model = kept.model().to(device)
    task_of(kept.recipe).lock(model)
    looking = None if detector is None else detector.looking_for(kept.recipe).to(device)
    return TorchScorer(model, kept.text_tokenizer(), looking)
