"""What the engine trains: a model, its losses, and how its checkpoints are chosen, for each kind of
recipe. Knows nothing of optimizers, steps and files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor, nn

from training.checkpoint import (
    AnyCheckpoint,
    Checkpoint,
    CheckpointError,
    DetectorCheckpoint,
)
from training.configs import AnyRecipe, Compute, DetectorRecipe, Recipe, Schedule
from training.data.batches import BatchDrawer
from training.data.frames import annotated_boxes
from training.data.sets import JudgedSet, TrainingSet
from training.data.tokenizing import TextTokenizer
from training.detection_loss import DetectionObjective
from training.distributed import share
from training.evaluation import detection
from training.evaluation.fusion_search import best_fusion
from training.evaluation.protocol import VAL_TAKES, score_heard
from training.evaluation.scorers import TorchScorer
from training.evaluation.scores import joined, summary
from training.found_frames.looks import LookDrawer, Track, look_at
from training.found_frames.objective import FrameObjective
from training.models.build import build_model
from training.models.detector import ClipDetector
from training.models.locked_encoder import memory_of
from training.models.looking import Looking
from training.models.rice import Rice
from training.models.sgmn.model import Sgmn
from training.objective import Objective, has_unused, total_loss
from training.starting import begin_with


@dataclass(frozen=True)
class Judged:
    """What validation found."""

    figures: dict[str, float]
    chosen_by: float
    """The higher, the better the checkpoint."""
    told: str
    state: dict[str, float] = field(default_factory=dict)
    """Numbers that are kept with the weights."""


class Trained(Protocol):
    """A batch, of whatever the task's objective takes."""

    @property
    def product(self) -> Tensor:
        """[N], of its N clips."""


class Drawer(Protocol):
    def batches(self, steps: range) -> Iterator[Trained]:
        """One for each step. Raises DataError."""


class Task(Protocol):
    """Models are of the task's own kind."""

    def build(self) -> nn.Module:
        """A new model with random weights."""

    def peak_rate(self, name: str, schedule: Schedule) -> float:
        """The highest learning rate of the parameter of that name; 0 freezes it."""

    def begin(self, model: Any, start: AnyCheckpoint) -> None:
        """Loads what training begins with. Raises CheckpointError where it does not fit."""

    def lock(self, model: Any) -> None:
        """What is frozen will not change any more, so what it gives may be kept."""

    def drawer(
        self,
        model: Any,
        data: Mapping[str, TrainingSet],
        tokenizer: TextTokenizer | None,
        track: Track,
    ) -> Drawer:
        """What draws this process's batches for the model; what takes long first is tracked.
        Raises DataError."""

    def objective(self, model: Any, compute: Compute) -> nn.Module:
        """A batch -> losses by name, each a scalar and not yet weighted."""

    def has_unused(self, model: Any) -> bool:
        """Whether some parameters take no part in the losses."""

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        """The weighted sum, a scalar."""

    def train_mode(self, model: Any) -> None:
        """What is frozen stays in evaluation mode."""

    def judge(
        self,
        model: Any,
        validation: JudgedSet,
        tokenizer: TextTokenizer | None,
    ) -> Judged:
        """Raises DataError."""


def task_of(recipe: AnyRecipe, detector: DetectorCheckpoint | None = None) -> Task:
    """A recipe `of_found_frames` has the `detector` that finds them."""
    if isinstance(recipe, DetectorRecipe):
        return DetectionTask(recipe)
    return RecognitionTask(recipe) if detector is None else FoundFramesTask(recipe, detector)


Kind = TypeVar("Kind", Recipe, DetectorRecipe)


class _OfBatches(Generic[Kind]):
    """Of batches that are drawn from pictures."""

    def __init__(self, recipe: Kind) -> None:
        self._recipe: Kind = recipe

    def drawer(
        self,
        model: Any,
        data: Mapping[str, TrainingSet],
        tokenizer: TextTokenizer | None,
        track: Track,
    ) -> Drawer:
        device = next(model.parameters()).device
        return BatchDrawer(self._recipe, data, device, share(), tokenizer)


class RecognitionTask(_OfBatches[Recipe]):
    """RICE on clips and pictures."""

    def build(self) -> Rice:
        return build_model(self._recipe.model)

    def peak_rate(self, name: str, schedule: Schedule) -> float:
        return rice_rate(name, schedule)

    def begin(self, model: Rice, start: AnyCheckpoint) -> None:
        if not isinstance(start, Checkpoint):
            raise CheckpointError(f"the starting weights are of a detector: {start.recipe.name}")
        begin_with(model, self._recipe, start)

    def lock(self, model: Rice) -> None:
        if self._recipe.schedule.encoder_rate == 0:
            model.memory = memory_of(model.encoder)

    def objective(self, model: Rice, compute: Compute) -> nn.Module:
        model.encoder.checkpointing = compute.checkpointing
        return Objective(model, self._recipe, compute.chunk)

    def has_unused(self, model: Rice) -> bool:
        return has_unused(model, self._recipe)

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        return total_loss(losses, self._recipe)

    def train_mode(self, model: Rice) -> None:
        model.train()
        model.encoder.train(self._recipe.schedule.encoder_rate > 0)
        model.decoder.train(rice_rate("decoder.", self._recipe.schedule) > 0)
        if model.text is not None:
            model.text.tower.backbone.train(self._recipe.schedule.text_rate > 0)

    def judge(
        self,
        model: Rice,
        validation: JudgedSet,
        tokenizer: TextTokenizer | None,
    ) -> Judged:
        boxes = annotated_boxes if self._recipe.intended_boxes else None
        scorer = TorchScorer(model, tokenizer, self._looking(model))
        found = score_heard(scorer, validation, takes=VAL_TAKES, boxes=boxes)
        fusion = best_fusion(found)
        results = summary(joined(found), fusion)
        figures = {f"{name}_r1": result.r1 for name, result in results.items()}
        figures |= {f"{name}_mrr": result.mrr for name, result in results.items()}
        chosen_by = results["fused" if self._recipe.matching_weight else "coarse"].mrr
        told = "  ".join(f"{name}: {result}" for name, result in results.items())
        chosen = {f"fusion_{name}": value for name, value in fusion._asdict().items()}
        return Judged(figures, chosen_by, told, chosen)

    def _looking(self, model: Rice) -> Looking | None:
        """How clips are looked at in validation; None: as they are."""
        return None


class FoundFramesTask(RecognitionTask):
    """SGMN's frame graph alone, on what the locked rest sees where a detector finds the product."""

    def __init__(self, recipe: Recipe, detector: DetectorCheckpoint) -> None:
        super().__init__(recipe)
        self._detector = detector

    def peak_rate(self, name: str, schedule: Schedule) -> float:
        return schedule.matching_rate if name.startswith("frame_graph.") else 0.0

    def drawer(
        self,
        model: Any,
        data: Mapping[str, TrainingSet],
        tokenizer: TextTokenizer | None,
        track: Track,
    ) -> Drawer:
        assert isinstance(model, Sgmn)  # noqa: S101  Recipe
        looks = look_at(model.eval(), self._looking(model), data, track)
        clips = sum(s.products for s in self._recipe.sources if s.layout != "photographs")
        return LookDrawer(looks, clips, model.config.frames, self._recipe.seed, share())

    def objective(self, model: Rice, compute: Compute) -> nn.Module:
        assert isinstance(model, Sgmn)  # noqa: S101  Recipe
        return FrameObjective(model)

    def lock(self, model: Rice) -> None:
        pass  # what it gives is kept as looks

    def train_mode(self, model: Rice) -> None:
        model.eval()  # nothing is dropped at random, and what is locked stays as it is

    def _looking(self, model: Rice) -> Looking:
        return self._detector.looking_for(self._recipe).to(next(model.parameters()).device)


def rice_rate(name: str, schedule: Schedule) -> float:
    """The highest learning rate of RICE's parameter of that name."""
    if name.startswith("encoder."):
        return schedule.encoder_rate
    if name.startswith("decoder.") and schedule.decoder_rate is not None:
        return schedule.decoder_rate
    return schedule.text_rate if name.startswith("text.tower.backbone.") else schedule.matching_rate


class DetectionTask(_OfBatches[DetectorRecipe]):
    """A detector on annotated frames."""

    def build(self) -> ClipDetector:
        return ClipDetector(self._recipe.model)

    def peak_rate(self, name: str, schedule: Schedule) -> float:
        alone = name.startswith("single.")
        return schedule.encoder_rate if alone else schedule.matching_rate

    def begin(self, model: ClipDetector, start: AnyCheckpoint) -> None:
        """A detector of clips may begin with one of single frames."""
        try:
            if not isinstance(start, DetectorCheckpoint):
                raise CheckpointError(
                    f"the starting weights are no detector's: {start.recipe.name}"
                )
            missing, surplus = model.load_state_dict(start.group("model"), strict=False)
        except RuntimeError as error:  # torch's, of other shapes
            raise CheckpointError(f"the starting weights do not fit: {error}") from error
        if surplus or any(not name.startswith("temporal.") for name in missing):
            raise CheckpointError(f"the starting weights are of another model: {start.recipe.name}")

    def lock(self, model: ClipDetector) -> None:
        pass  # nothing of a detector is kept

    def objective(self, model: ClipDetector, compute: Compute) -> nn.Module:
        return DetectionObjective(model)

    def has_unused(self, model: ClipDetector) -> bool:
        return False

    def total(self, losses: dict[str, Tensor]) -> Tensor:
        return losses["score"] + losses["box"] + losses["giou"]

    def train_mode(self, model: ClipDetector) -> None:
        model.train()
        model.single.train(self._recipe.schedule.encoder_rate > 0)

    def judge(
        self,
        model: ClipDetector,
        validation: JudgedSet,
        tokenizer: TextTokenizer | None,
    ) -> Judged:
        found = detection.detect(model, validation)
        figures = detection.figures(found)
        threshold = detection.best_threshold(found)
        told = "  ".join(f"{name} {100 * value:.1f}" for name, value in figures.items())
        return Judged(figures, figures["intended"], told, {"threshold": threshold})
