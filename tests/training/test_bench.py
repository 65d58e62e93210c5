"""The benchmark of the training loop: both loops do the same work, and it tells of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from tests.training.test_cli import folder as folder  # noqa: PLC0414
from tests.training.test_gradient_cache import EXACT
from tests.training.tiny import RECIPE, photographs
from training import cli, engine
from training.bench import flops_of, plain_steps
from training.board import Board
from training.configs import Compute
from training.data.batches import BatchDrawer
from training.recipes import RECIPES

CPU = torch.device("cpu")


@pytest.mark.parametrize("clip_norm", [1.0, None])
def test_both_loops_take_the_same_step(tmp_path: Path, clip_norm: float | None) -> None:
    """Nothing is dropped at random, and the first step is at the peak rates."""
    assert EXACT.schedule.warmup == 1
    recipe = replace(EXACT, schedule=replace(EXACT.schedule, clip_norm=clip_norm))
    fitting, plain = (engine.Run(recipe, tmp_path, CPU, compute=Compute("bf16")) for _ in range(2))
    positions = plain.model.encoder.positions
    begun = positions.detach().clone()
    data = {"made": photographs()}
    with Board(tmp_path) as board:
        progress = next(engine.each_step(fitting, BatchDrawer(EXACT, data, CPU), board))
    assert next(plain_steps(plain, BatchDrawer(EXACT, data, CPU))) == progress.clips == 8
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, fitting.model.state_dict()[name]), name
    assert not torch.equal(positions, begun)


def test_operations_are_those_of_forward_and_backward() -> None:
    """A product of [5,3] and [3,2] is 2 x 5 x 3 x 2; its gradients are two more."""
    weight = torch.ones(3, 2, requires_grad=True)
    fixed = torch.ones(5, 3, requires_grad=True)

    def steps() -> Iterator[int]:
        while True:
            (fixed @ weight).sum().backward()
            yield 1

    assert flops_of(steps(), 4) == 3 * 60


def test_the_command_tells_both_rates(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--compile` is of fit's loop alone."""
    compiled: list[torch.nn.Module] = []
    monkeypatch.setattr(engine, "compile_blocks", lambda model, device: compiled.append(model))
    monkeypatch.setitem(RECIPES, "tiny", replace(RECIPE, name="tiny"))
    command = ["bench", "tiny", "--data", f"made={folder}", "--rounds", "2", "--steps", "2"]
    command += ["--checkpointing", "--compile"]
    result = CliRunner().invoke(cli.app, [*command, "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["bench"], report["recipe"]) == ("fit", "tiny")
    rates = report["steps_per_second"], report["plain_steps_per_second"]
    assert min(rates) > 0
    assert report["ratio"] == pytest.approx(rates[0] / rates[1])
    assert report["clips_per_second"] == pytest.approx(8 * rates[0])
    share = report["flops_per_step"] * rates[0] / report["ceiling_flops"]
    assert report["ceiling_share"] == pytest.approx(share)
    computed = Compute("bf16", checkpointing=True, compiled=True)
    assert report["setting"] == {"rounds": 2, "steps": 2, **asdict(computed)}
    assert len(compiled) == 1
    refused = CliRunner().invoke(cli.app, [*command, "--steps", "3"])
    assert refused.exit_code == 1 and "has 6 steps, 9 are needed" in refused.output
