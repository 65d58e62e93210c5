"""Runs: they learn, they resume exactly, and their checkpoints carry the recipe."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training.tiny import RECIPE, photographs
from training import engine
from training.checkpoint import Checkpoint, CheckpointError, load, save
from training.configs import Recipe, Schedule, Source, recipe_from_dict
from training.engine import learning_rate_share
from training.recipes import RECIPES


class KilledError(Exception):
    """Stands for a kill: the run ends between two steps."""


def losses_of(recipe: Recipe, out: Path, stop_after: int | None = None) -> list[float]:
    seen: list[float] = []

    def watch(progress: engine.Progress) -> None:
        seen.append(progress.losses["icl"] + progress.losses["pmd"])
        if progress.step == stop_after:
            raise KilledError

    data = photographs()
    with contextlib.suppress(KilledError):
        engine.fit(recipe, {"made": data}, data, out, device=torch.device("cpu"), watch=watch)
    return seen


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole = losses_of(RECIPE, tmp_path / "whole")
    losses_of(RECIPE, tmp_path / "killed", stop_after=3)
    resumed = losses_of(RECIPE, tmp_path / "killed")
    assert resumed == whole[3:]


def test_another_recipe_does_not_resume(tmp_path: Path) -> None:
    losses_of(RECIPE, tmp_path)
    with pytest.raises(CheckpointError, match="another recipe"):
        losses_of(replace(RECIPE, seed=1), tmp_path)


def test_a_run_learns(tmp_path: Path) -> None:
    recipe = replace(RECIPE, schedule=replace(RECIPE.schedule, steps=40, evaluate_every=40))
    seen = losses_of(recipe, tmp_path)
    assert sum(seen[-5:]) < 0.8 * sum(seen[:5])


def test_the_best_checkpoint_is_a_model_with_its_recipe(tmp_path: Path) -> None:
    losses_of(RECIPE, tmp_path)
    kept = load(tmp_path / "best.safetensors")
    assert kept.recipe == RECIPE
    assert not kept.model().training


def test_what_is_not_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load(tmp_path / "text.safetensors")
    save(tmp_path / "x.safetensors", Checkpoint(RECIPE, {"model.x": torch.zeros(1)}, {}))
    assert not (tmp_path / "x.partial").exists()


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_valid_and_survives_json(name: str) -> None:
    assert RECIPES[name].name == name
    assert recipe_from_dict(RECIPES[name].to_dict()) == RECIPES[name]


@pytest.mark.parametrize(
    "wrong",
    [
        {"validate_on": "elsewhere"},
        {"hard_negatives": 0},
        {"sources": (*RECIPE.sources, *RECIPE.sources)},
        {"sources": (Source("made", "pictures", products=1),)},
    ],
)
def test_nonsense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"made|elsewhere|hard_negatives|repeat"):
        replace(RECIPE, **wrong)  # type: ignore[arg-type]


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    schedule = Schedule(steps=100, warmup=10)
    shares = [learning_rate_share(step, schedule) for step in range(100)]
    assert shares[0] == 0.1
    assert max(shares) == shares[9] == 1.0
    assert shares[-1] < 1e-3
