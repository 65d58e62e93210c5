"""The training run: draws batches, steps, averages, validates, keeps the best, resumes.

Everything random depends on the recipe's seed and the step, so a run that was killed and resumed
goes on exactly as it would have. Started by torchrun, several processes train one model: each
encodes its share of the batch, and the first validates and writes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from training.board import Board
from training.checkpoint import (
    AnyCheckpoint,
    Checkpoint,
    CheckpointError,
    DetectorCheckpoint,
    checkpoint_of,
    load_any,
    load_optimizer,
    load_weights,
    optimizer_tensors,
    save,
)
from training.configs import AnyRecipe, Compute, DetectorRecipe, Recipe, Schedule
from training.data.sets import JudgedSet, TrainingSet
from training.data.tokenizing import TextTokenizer
from training.distributed import parallel, share, wait
from training.errors import TrainingError
from training.found_frames.looks import Track
from training.models.compiling import compile_blocks
from training.seeds import seed_of
from training.tasks import Drawer, Trained, rice_rate, task_of

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class RunError(TrainingError):
    """A run cannot begin, or cannot go on; the message says why."""


class DivergedError(RunError):
    """The loss is no number any more; the run's last checkpoint is from before that."""


@dataclass(frozen=True)
class Progress:
    """What a step tells those who watch."""

    step: int
    losses: dict[str, float]
    clips: int  # of all processes, in this step
    validation: str | None = None


def fit(
    recipe: AnyRecipe,
    data: Mapping[str, TrainingSet],
    validation: JudgedSet,
    out: Path,
    *,
    device: torch.device,
    start: AnyCheckpoint | None = None,
    compute: Compute | None = None,
    tokenizer: TextTokenizer | None = None,
    detector: DetectorCheckpoint | None = None,
    watch: Callable[[Progress], None] = lambda progress: None,
    track: Track = lambda items, told: items,
) -> Path:
    """Trains to the recipe's last step and returns the best checkpoint's path.

    `out` holds `last.safetensors` and `best.safetensors`; a `last` found there is resumed, else
    the weights are those of `start`, or random. Raises CheckpointError where `last` is of another
    recipe or `start` of another model, DataError, and RunError. A model that reads text needs the
    `tokenizer` that its weights are for; a run that is resumed has its own. A recipe of found
    frames needs the `detector` that finds them.
    """
    out.mkdir(parents=True, exist_ok=True)
    compute = compute or Compute()
    check_detector(recipe, detector)
    run = Run.resume(recipe, out, device, compute, detector)
    run = run or Run(recipe, out, device, start, compute, detector=detector)
    run.tokenizer = run.tokenizer or tokenizer
    _check_tokenizer(recipe, run.tokenizer)
    for model in (run.model, run.averaged):
        run.task.lock(model)
    drawer = run.task.drawer(run.model, data, run.tokenizer, track)
    with Board(out, run.step) as board:
        if not run.judged:
            watch(Progress(run.step, {}, 0, _validated(run, validation, board)))
        for progress in each_step(run, drawer, board):
            told = None
            if run.step % recipe.schedule.evaluate_every == 0 or run.step == run.last_step:
                told = _validated(run, validation, board)
            watch(replace(progress, validation=told))
    return out / "best.safetensors"


def _validated(run: Run, validation: JudgedSet, board: Board) -> str | None:
    """What the first process has found, to it; the others wait."""
    told = run.validate(validation, board) if share().leads else None
    wait()
    return told


def each_step(run: Run, drawer: Drawer, board: Board) -> Iterator[Progress]:
    """The steps that a run has left, each taken when it is asked for; nothing is validated.

    Raises DataError and DivergedError.
    """
    steps = range(run.step, run.last_step)
    for step, batch in zip(steps, drawer.batches(steps), strict=True):
        losses = run.train(step, batch)
        clips = len(batch.product) * share().ranks
        board.step(run.step, losses, run.rate, clips)
        yield Progress(run.step, losses, clips)


class Run:
    """Model, averaged model and optimizer on their way through the schedule."""

    def __init__(
        self,
        recipe: AnyRecipe,
        out: Path,
        device: torch.device,
        start: AnyCheckpoint | None = None,
        compute: Compute | None = None,
        *,
        detector: DetectorCheckpoint | None = None,
    ) -> None:
        compute = compute or Compute()
        _check_chunks(recipe, compute)
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.task = task_of(recipe, detector)
        self.compute = compute
        self.out = out
        self.device = device
        self.step = 0
        self.rate = 0.0
        self.last_step = recipe.schedule.steps
        self.tokenizer: TextTokenizer | None = None
        self.best = -1.0
        self.judged = True  # False: it was stopped before the weights it has were scored
        self.model = self.task.build().to(device)
        if start is not None:
            self.task.begin(self.model, start)
        self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.averaged = self.task.build().to(device)
        self.averaged.load_state_dict(self.model.state_dict())
        groups, self.names = parameter_groups(self.model, recipe.schedule, self.task.peak_rate)
        self.optimizer = torch.optim.AdamW(groups, eps=recipe.schedule.eps)
        self.scaler = torch.amp.GradScaler(device.type, enabled=compute.precision == "fp16")
        if compute.compiled:
            compile_blocks(self.model, device)
        objective = self.task.objective(self.model, compute)
        self.losses = parallel(objective, device, unused=self.task.has_unused(self.model))

    @classmethod
    def resume(
        cls,
        recipe: AnyRecipe,
        out: Path,
        device: torch.device,
        compute: Compute,
        detector: DetectorCheckpoint | None = None,
    ) -> Run | None:
        last = out / "last.safetensors"
        if not last.exists():
            return None
        kept = load_any(last)
        # A run goes on with the clipping that it began with: released recipes once had some.
        clip_norm = kept.recipe.schedule.clip_norm
        recipe = replace(recipe, schedule=replace(recipe.schedule, clip_norm=clip_norm))
        if kept.recipe != recipe:
            raise CheckpointError(f"{last} is of another recipe; train into another folder")
        run = cls(recipe, out, device, compute=compute, detector=detector)
        load_weights(run.model, kept.group("training"), recipe.name)
        load_weights(run.averaged, kept.group("model"), recipe.name)
        load_optimizer(run.optimizer, run.names, kept.group("optimizer"))
        run.step, run.best = kept.state["step"], kept.state["best"]
        run.judged = kept.state.get("judged", True)
        if isinstance(kept, Checkpoint):
            run.tokenizer = kept.text_tokenizer()
        if run.scaler.is_enabled() and (scaler := kept.state.get("scaler")):
            run.scaler.load_state_dict(scaler)
        return run

    def train(self, step: int, batch: Trained) -> dict[str, float]:
        """One update. Returns the losses."""
        self.rate = learning_rate_share(step, self.recipe.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak"] * self.rate
        losses = self.backward(step, batch)
        self.scaler.unscale_(self.optimizer)
        self.clip_gradients()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._average(step)
        self.step = step + 1
        return losses

    def backward(self, step: int, batch: Trained) -> dict[str, float]:
        """Losses, and their gradients times the scaler's factor. Raises DivergedError."""
        # What is dropped, paths and weights, depends on the step and the process alone.
        torch.manual_seed(seed_of(self.recipe.seed, step, share().rank))
        self.task.train_mode(self.model)
        self.optimizer.zero_grad(set_to_none=True)
        precision = self.compute.precision
        with sdpa_kernel(attention_kernels(self.device)):
            with torch.autocast(self.device.type, DTYPES[precision], enabled=precision != "fp32"):
                losses = self.losses(batch)
            total = self.task.total(losses)
            if not torch.isfinite(total):
                raise DivergedError(f"step {step}: the loss is {total.item()}")
            self.scaler.scale(total).backward()
        return {name: loss.item() for name, loss in losses.items()}

    def clip_gradients(self) -> None:
        """To the schedule's norm, where it has one."""
        if (norm := self.recipe.schedule.clip_norm) is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), norm)

    @torch.no_grad()
    def _average(self, step: int) -> None:
        """Exponential moving average, shorter at the beginning."""
        decay = min(self.recipe.schedule.ema, (1 + step) / (10 + step))
        for kept, new in zip(
            self.averaged.state_dict().values(), self.model.state_dict().values(), strict=True
        ):
            if kept.is_floating_point():
                kept.lerp_(new, 1 - decay)
            else:
                kept.copy_(new)

    def validate(self, validation: JudgedSet, board: Board) -> str:
        """Writes `last`; scores the averaged weights; writes `best` when they are, and `last` with
        what was found. Raises DataError, and then the run goes on from there."""
        self._save("last", {"judged": False})
        judged = self.task.judge(self.averaged, validation, self.tokenizer)
        board.write({f"validation/{k}": v for k, v in judged.figures.items()}, self.step)
        better = judged.chosen_by > self.best
        self.best = max(self.best, judged.chosen_by)
        found = {"judged": True} | judged.state
        if better:
            self._save("best", found)
        self._save("last", found)
        return judged.told

    def _save(self, name: Literal["best", "last"], found: Mapping[str, float]) -> None:
        tensors = {f"model.{k}": v for k, v in self.averaged.state_dict().items()}
        if name == "last":
            tensors |= {f"training.{k}": v for k, v in self.model.state_dict().items()}
            tensors |= optimizer_tensors(self.optimizer, self.names)
        state = {"step": self.step, "best": self.best, "scaler": self.scaler.state_dict(), **found}
        tokenizer = None if self.tokenizer is None else self.tokenizer.definition
        kept = checkpoint_of(self.recipe, tensors, state, tokenizer)
        save(self.out / f"{name}.safetensors", kept)


def _check_chunks(recipe: AnyRecipe, compute: Compute) -> None:
    """Raises RunError."""
    if isinstance(recipe, DetectorRecipe):
        if compute.chunk or compute.checkpointing:
            raise RunError(f"{recipe.name}: a detector is trained without chunks and checkpointing")
        return
    if compute.chunk and recipe.model.encoder.stem == "conv" and recipe.schedule.encoder_rate > 0:
        raise RunError(
            f"{recipe.name} cannot be encoded in chunks: the conv stem's batch normalisation is "
            "over the whole batch"
        )


def check_detector(recipe: AnyRecipe, detector: DetectorCheckpoint | None) -> None:
    """Raises RunError."""
    needs = isinstance(recipe, Recipe) and recipe.of_found_frames
    if needs != (detector is not None):
        needed = "learns of frames that a detector finds: its run needs one"
        raise RunError(f"{recipe.name} {needed if needs else 'is not trained beside a detector'}")


def _check_tokenizer(recipe: AnyRecipe, tokenizer: TextTokenizer | None) -> None:
    """Raises RunError."""
    text = None if isinstance(recipe, DetectorRecipe) else recipe.model.text
    if text is None:
        return
    if tokenizer is None:
        raise RunError(f"{recipe.name} reads text: its run needs a tokenizer")
    if tokenizer.vocabulary > text.vocabulary:
        raise RunError(
            f"the tokenizer has {tokenizer.vocabulary} tokens, the recipe's tower {text.vocabulary}"
        )


def parameter_groups(
    model: nn.Module, schedule: Schedule, peak_rate: Callable[[str, Schedule], float] = rice_rate
) -> tuple[list[dict[str, object]], list[str]]:
    """Encoder and new modules at their own rates; no decay on gains, biases and embeddings.

    `peak_rate` tells each name's. Also returns the parameters' names in the order of the groups.
    What has no rate is frozen.
    """
    groups: dict[tuple[float, float], list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in model.named_parameters():
        rate = peak_rate(name, schedule)
        parameter.requires_grad_(rate > 0)
        if not rate:
            continue
        looked_up = any(part in name for part in ("positions", "types", ".words."))
        decay = schedule.weight_decay if parameter.ndim >= 2 and not looked_up else 0.0
        groups.setdefault((rate, decay), []).append((name, parameter))
    settings: list[dict[str, object]] = [
        {"params": [p for _, p in members], "lr": 0.0, "peak": rate, "weight_decay": decay}
        for (rate, decay), members in groups.items()
    ]
    return settings, [name for members in groups.values() for name, _ in members]


def attention_kernels(device: torch.device) -> list[SDPBackend]:
    """On a CPU the flash kernel's backward pass costs more than plain matrix products."""
    if device.type == "cpu":
        return [SDPBackend.MATH]
    return [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def learning_rate_share(step: int, schedule: Schedule) -> float:
    """Linear to 1 over the warm-up, then a cosine to 0 at the last step."""
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    along = (step - schedule.warmup) / (schedule.steps - schedule.warmup)
    return (1 + math.cos(math.pi * along)) / 2
