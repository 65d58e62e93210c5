"""The mean of two models' weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tests.training.tiny import RECIPE, tiny_model
from tests.training.tiny_sgmn import SGMN_RECIPE, tiny_sgmn, tiny_tokenizer
from training import cli
from training.checkpoint import Checkpoint, averaged, load, of_model, save
from training.models.build import build_model

runner = CliRunner()


def another() -> Checkpoint:
    """Of the tiny model's recipe, with other weights."""
    torch.manual_seed(7)
    return of_model(RECIPE, build_model(RECIPE.model))


def test_each_weight_lies_between_the_two(tmp_path: Path) -> None:
    first, second = of_model(RECIPE, tiny_model()), another()
    paths = [tmp_path / f"{name}.safetensors" for name in ("first", "second", "mean")]
    save(paths[0], replace(first, tensors=first.tensors | {"training.x": torch.zeros(1)}))
    save(paths[1], second)
    command = ["average", *map(str, paths[:2]), "--share", "0.25", "--out", str(paths[2])]
    told = runner.invoke(cli.app, command)
    assert told.exit_code == 0, told.output
    found = load(paths[2])
    assert found.recipe == RECIPE
    assert found.tensors.keys() == first.tensors.keys(), "no run can go on from it"
    theirs = second.group("model")
    for name, value in found.group("model").items():
        own = first.group("model")[name]
        assert torch.allclose(value.float(), 0.75 * own.float() + 0.25 * theirs[name].float()), name
    found.model()
    same = averaged(first, second, 0.0).tensors
    assert all(torch.equal(same[name], value) for name, value in first.tensors.items())


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (lambda: of_model(SGMN_RECIPE, tiny_sgmn(), tiny_tokenizer().definition), "different mod"),
        (lambda: replace(another(), tokenizer="{}"), "different tokenizers"),
    ],
    ids=["model", "tokenizer"],
)
def test_what_has_no_mean_is_told(
    other: Callable[[], Checkpoint], told: str, tmp_path: Path
) -> None:
    paths = [tmp_path / f"{name}.safetensors" for name in ("first", "second", "mean")]
    save(paths[0], another())
    save(paths[1], other())
    command = ["average", *map(str, paths[:2]), "--out", str(paths[2])]
    result = runner.invoke(cli.app, command)
    assert result.exit_code == 1 and told in result.output
    assert not paths[2].exists()
