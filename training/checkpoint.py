"""Checkpoints: safetensors with the whole recipe inside; nothing that executes on loading.

One file holds all that a resumed run needs: weights, averaged weights, AdamW's moments, the step
and the best figure so far. It is written to a temporary name and renamed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from training.configs import AnyRecipe, DetectorRecipe, Recipe, recipe_from_dict
from training.data.tokenizing import TextTokenizer
from training.errors import TrainingError
from training.files import replacing
from training.models.build import build_model
from training.models.detector import ClipDetector
from training.models.encoder import resized_positions
from training.models.looking import Looking
from training.models.rice import Rice

# Fields that recipes did not have at first, and what was done before there were any.
BEFORE: dict[str, Any] = {"contest": "both", "reconstruction_weight": 0.0}
MODEL_BEFORE: dict[str, Any] = {"attention_dropout": 0.0, "reconstruction": None}


class CheckpointError(TrainingError):
    """A checkpoint cannot be read or does not fit; the message says which and why."""


class _Tensors:
    tensors: dict[str, Tensor]

    def group(self, prefix: str) -> dict[str, Tensor]:
        """The tensors of one group, without its prefix."""
        start = prefix + "."
        return {k.removeprefix(start): v for k, v in self.tensors.items() if k.startswith(start)}


@dataclass(frozen=True)
class Checkpoint(_Tensors):
    recipe: Recipe
    tensors: dict[str, Tensor]  # prefixed: "model." is what is evaluated and exported
    state: dict[str, Any]  # numbers: step, best, ...
    tokenizer: str | None = None  # tokenizer.json, of a model that reads text

    def model(self) -> Rice:
        """The model, in evaluation mode. Raises CheckpointError."""
        model = build_model(self.recipe.model)
        load_weights(model, self.group("model"), self.recipe.name)
        return model.eval()

    def text_tokenizer(self) -> TextTokenizer | None:
        """What the model reads text with, where it does."""
        text = self.recipe.model.text
        if text is None or self.tokenizer is None:
            return None
        return TextTokenizer(self.tokenizer, text.max_tokens)


@dataclass(frozen=True)
class DetectorCheckpoint(_Tensors):
    """The same of a detector; its state also has the `threshold` that scores are judged by."""

    recipe: DetectorRecipe
    tensors: dict[str, Tensor]
    state: dict[str, Any]

    def detector(self) -> ClipDetector:
        """The model, in evaluation mode. Raises CheckpointError."""
        model = ClipDetector(self.recipe.model)
        load_weights(model, self.group("model"), self.recipe.name)
        return model.eval()

    @property
    def threshold(self) -> float:
        """The score from which on a box is taken for the intended product's. Raises
        CheckpointError."""
        if "threshold" not in self.state:
            raise CheckpointError(
                f"{self.recipe.name}: its run was stopped before it chose a threshold; resume it"
            )
        return float(self.state["threshold"])

    def looking_for(self, recipe: Recipe) -> Looking:
        """How clips are looked at for the recipe's model, as that was trained to look: at patches
        alone, or else closer. Raises CheckpointError."""
        encoder = recipe.model.encoder
        return Looking(self.detector(), self.threshold, encoder, closer=recipe.looks_closer)

    def with_threshold(self, threshold: float) -> DetectorCheckpoint:
        """The same, judged by another score."""
        return replace(self, state=self.state | {"threshold": threshold})


AnyCheckpoint = Checkpoint | DetectorCheckpoint


def checkpoint_of(
    recipe: AnyRecipe,
    tensors: dict[str, Tensor],
    state: dict[str, Any],
    tokenizer: str | None = None,
) -> AnyCheckpoint:
    """Of the recipe's kind."""
    if isinstance(recipe, DetectorRecipe):
        return DetectorCheckpoint(recipe, tensors, state)
    return Checkpoint(recipe, tensors, state, tokenizer)


def of_model(recipe: Recipe, model: Rice, tokenizer: str | None = None) -> Checkpoint:
    """A model that no run has trained yet; `model` is the recipe's."""
    return Checkpoint(recipe, _of_weights(model), {"step": 0, "best": -1.0}, tokenizer)


def of_detector(
    recipe: DetectorRecipe, detector: ClipDetector, threshold: float
) -> DetectorCheckpoint:
    """The same of a detector, with the score that its boxes are judged by."""
    state = {"step": 0, "best": -1.0, "threshold": threshold}
    return DetectorCheckpoint(recipe, _of_weights(detector), state)


def _of_weights(model: nn.Module) -> dict[str, Tensor]:
    return {f"model.{name}": value for name, value in model.state_dict().items()}


def resized(kept: Checkpoint, pixels: int) -> Checkpoint:
    """The model for pictures of another size: positions are interpolated, the rest stays.

    Source: FixRes (Touvron et al., 2019, "Fixing the train-test resolution discrepancy"): random
    crops show things larger in training than whole pictures do at test, so a model is often better
    at test on somewhat larger pictures than it was trained on. Of the weights those that are
    evaluated are kept, so that no run goes on from this. Raises CheckpointError where the model's
    patches do not fill such a picture.
    """
    try:
        recipe = kept.recipe.at_size(pixels)
    except ValueError as error:
        raise CheckpointError(f"{kept.recipe.name} cannot be resized: {error}") from error
    tensors = {f"model.{name}": value for name, value in kept.group("model").items()}
    positions = "model.encoder.positions"
    tensors[positions] = resized_positions(tensors[positions], recipe.model.encoder.patches)
    return replace(kept, recipe=recipe, tensors=tensors)


def averaged(first: Checkpoint, second: Checkpoint, share: float) -> Checkpoint:
    """The first one's model with `share` of each weight from the second one's, in [0, 1].

    Source: WiSE-FT (Wortsman et al., 2022, "Robust fine-tuning of zero-shot models"): a model that
    went on from another on other data has forgotten some of the first; between the two there is
    often one that is nearly as good as the better on both. Of the weights those that are evaluated
    are kept, so that no run goes on from this. Raises CheckpointError where the models differ.
    """
    ours, theirs = first.group("model"), second.group("model")
    shapes = [{name: value.shape for name, value in group.items()} for group in (ours, theirs)]
    if shapes[0] != shapes[1]:
        raise CheckpointError(
            f"{first.recipe.name} and {second.recipe.name} are different models: they have no mean"
        )
    if first.tokenizer != second.tokenizer:
        raise CheckpointError("their texts are cut by different tokenizers: they have no mean")
    mean = {
        f"model.{name}": torch.lerp(value, theirs[name], share)
        if value.is_floating_point()
        else value
        for name, value in ours.items()
    }
    return replace(first, tensors=mean)


def load_weights(model: nn.Module, weights: dict[str, Tensor], name: str) -> None:
    """Into the model of the recipe of that name. Raises CheckpointError."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:  # torch's, a line for each kind of misfit
        told = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{name}: the weights do not fit its model: {told:.200}") from error


def save(path: Path, checkpoint: AnyCheckpoint) -> None:
    """Raises CheckpointError."""
    metadata = {
        "recipe": json.dumps(checkpoint.recipe.to_dict()),
        "state": json.dumps(checkpoint.state),
    }
    if isinstance(checkpoint, Checkpoint) and checkpoint.tokenizer is not None:
        metadata["tokenizer"] = checkpoint.tokenizer
    tensors = {k: v.detach().cpu().contiguous() for k, v in checkpoint.tensors.items()}
    try:
        with replacing(path) as partial:
            save_file(tensors, partial, metadata)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be written: {error}") from error


def load(path: Path) -> Checkpoint:
    """Of RICE. Raises CheckpointError."""
    kept = load_any(path)
    if not isinstance(kept, Checkpoint):
        raise CheckpointError(f"{path} is of a detector: {kept.recipe.name}")
    return kept


def load_detector(path: Path) -> DetectorCheckpoint:
    """Raises CheckpointError."""
    kept = load_any(path)
    if not isinstance(kept, DetectorCheckpoint):
        raise CheckpointError(f"{path} is of no detector: {kept.recipe.name}")
    return kept


def load_any(path: Path) -> AnyCheckpoint:
    """Raises CheckpointError."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return checkpoint_of(
            recipe_from_dict(_completed(json.loads(metadata["recipe"]))),
            tensors,
            json.loads(metadata["state"]),
            metadata.get("tokenizer"),
        )
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except (SafetensorError, OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is not a checkpoint of this project: {error}") from error
    except ValidationError as error:
        raise CheckpointError(f"{path} has a recipe this version cannot read: {error}") from error


def _completed(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe of any age, with what it left unsaid."""
    if not isinstance(recipe, dict) or not isinstance(recipe["model"], dict):
        raise TypeError("its recipe is no object")
    if recipe.get("task") == "detection":
        return recipe
    return {**BEFORE, **recipe, "model": {**MODEL_BEFORE, **recipe["model"]}}


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: list[str]) -> dict[str, Tensor]:
    """AdamW's state by parameter name; `names` in the order of the optimizer's parameters."""
    state = optimizer.state_dict()["state"]
    return {
        f"optimizer.{names[index]}.{key}": torch.as_tensor(value)
        for index, moments in state.items()
        for key, value in moments.items()
    }


def load_optimizer(
    optimizer: torch.optim.Optimizer, names: list[str], tensors: dict[str, Tensor]
) -> None:
    """The inverse: `tensors` is the checkpoint's "optimizer" group."""
    state: dict[int, dict[str, Tensor]] = {}
    index = {name: position for position, name in enumerate(names)}
    for key, value in tensors.items():
        name, _, moment = key.rpartition(".")
        state.setdefault(index[name], {})[moment] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
