"""`lpr-train bench`: what the training loop costs beside a plain one, taking turns in one run.

Both loops draw the same batches and train the same modules, each a copy of its own, with the same
optimizer. The plain one does what a page of torch would do: draw, forward, backward, clip, step.
`fit`'s own loop (`engine.each_step`) also reads ahead, schedules, averages the weights, looks
whether the loss is a number, and writes TensorBoard's log. Neither validates.

The hardware's limit is measured too: how fast it multiplies large matrices, and which share of that
the steps use, by the operations that torch counts in them.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import count, islice
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch.nn.attention import sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from training.board import Board
from training.configs import AnyRecipe, Compute
from training.data.batches import Batch, BatchDrawer
from training.data.given import DataOption, LimitOption, training_folders, training_sets
from training.data.wrong_lines import DEFAULT_LIMIT
from training.engine import DTYPES, Run, attention_kernels, check_detector, each_step
from training.fit_command import (
    CheckpointingOption,
    ChunkOption,
    CompileOption,
    PrecisionOption,
    compute_of,
    run_tokenizer,
)
from training.recipes import DETECTOR_RECIPES, RECIPES, any_recipe_named
from training.terminal import CommandError, DeviceOption, console, progress_bars


@dataclass(frozen=True)
class Report:
    """`ratio` is how many times as fast as the plain loop; medians over the turns."""

    recipe: str
    steps_per_second: float
    plain_steps_per_second: float
    clips_per_second: float
    flops_per_step: float
    """Of products of matrices and convolutions, forward and backward; a multiply-add is two, and
    what memory is saved by (chunks, checkpointing) is counted each time that it is computed."""
    ceiling_flops: float
    """A second, of large products of matrices in the same precision."""
    setting: dict[str, Any]
    machine: dict[str, Any]

    @property
    def ratio(self) -> float:
        return self.steps_per_second / self.plain_steps_per_second

    @property
    def ceiling_share(self) -> float:
        """Of what the hardware can, used by the steps."""
        return self.flops_per_step * self.steps_per_second / self.ceiling_flops

    def to_json(self) -> dict[str, Any]:
        derived = {"ratio": self.ratio, "ceiling_share": self.ceiling_share}
        return {"bench": "fit", **asdict(self), **derived}


def bench(  # noqa: PLR0917 - typer reads the options off the signature
    recipe_name: Annotated[
        str, typer.Argument(metavar="RECIPE", help=f"{', '.join((*RECIPES, *DETECTOR_RECIPES))}.")
    ],
    data: DataOption,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each; medians are told.")] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Of each turn.")] = 5,
    device: DeviceOption = "cpu",
    precision: PrecisionOption = "bf16",
    chunk: ChunkOption = None,
    checkpointing: CheckpointingOption = False,
    compiled: CompileOption = False,
    limit: LimitOption = DEFAULT_LIMIT,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Steps a second of `fit`'s loop; baseline: a plain loop over the same modules, as they are."""
    recipe = any_recipe_named(recipe_name)
    check_detector(recipe, None)
    compute = compute_of(precision, chunk, checkpointing, compiled)
    folders = training_folders(recipe, data)
    if recipe.schedule.steps < (needed := (1 + rounds) * steps):
        raise CommandError(f"{recipe.name} has {recipe.schedule.steps} steps, {needed} are needed")
    with tempfile.TemporaryDirectory() as folder, progress_bars() as bars:
        out, place = Path(folder), torch.device(device)
        sets = training_sets(recipe, folders, bars, limit)
        tokenizer = run_tokenizer(recipe, sets, out, None)

        def drawer() -> BatchDrawer:
            return BatchDrawer(recipe, sets, place, tokenizer=tokenizer)

        task = bars.add_task("turns", total=2 * (1 + rounds))
        report = compare(
            recipe, drawer, out, place, compute, rounds=rounds, steps=steps,
            done=lambda: bars.advance(task),
        )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(report.to_json()))
        return
    console.print(
        f"{recipe.name}: {report.steps_per_second:.3f} steps/s, "
        f"{report.clips_per_second:.1f} clips/s; a plain loop {report.plain_steps_per_second:.3f} "
        f"steps/s: {report.ratio:.3f} times as fast\n"
        f"{report.flops_per_step / 1e12:.3f} TFLOP a step: {100 * report.ceiling_share:.1f} % of "
        f"the {report.ceiling_flops / 1e12:.3f} TFLOP/s of large matrix products\n"
        f"{report.setting}\n{report.machine}"
    )


def compare(
    recipe: AnyRecipe,
    drawer: Callable[[], BatchDrawer],
    out: Path,
    device: torch.device,
    compute: Compute,
    *,
    rounds: int,
    steps: int,
    done: Callable[[], None] = lambda: None,
) -> Report:
    """Each loop takes `steps` steps a turn: once to warm up, then `rounds` times. Calls `done` a
    turn. The plain loop's modules are not compiled. Raises TrainingError."""
    fitting = Run(recipe, out, device, compute=compute)
    plain = Run(recipe, out, device, compute=replace(compute, compiled=False))
    with Board(out) as board:
        loops = {
            "fit": (progress.clips for progress in each_step(fitting, drawer(), board)),
            "plain": plain_steps(plain, drawer()),
        }
        rates, clips = _rates(loops, rounds, steps, device, done)
        flops = flops_of(loops["plain"], steps)
    return Report(
        recipe.name,
        rates["fit"],
        rates["plain"],
        rates["fit"] * clips,
        flops,
        matmul_ceiling(device, DTYPES[compute.precision]),
        {"rounds": rounds, "steps": steps, **asdict(compute)},
        {
            "device": device_name(device),
            "cpus": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
    )


def _rates(
    loops: Mapping[str, Iterator[int]],
    rounds: int,
    steps: int,
    device: torch.device,
    done: Callable[[], None],
) -> tuple[dict[str, float], float]:
    """Steps a second of each loop, the median of its turns; clips a step, the mean."""
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    clips: list[int] = []
    for turn in range(1 + rounds):
        for name, loop in loops.items():
            begun = time.perf_counter()
            clips += islice(loop, steps)
            _finish(device)
            if turn:  # the first warms up
                seconds[name].append(time.perf_counter() - begun)
            done()
    rates = {name: steps / statistics.median(taken) for name, taken in seconds.items()}
    return rates, statistics.mean(clips)


def flops_of(loop: Iterator[int], steps: int) -> float:
    """Of one step, the mean of `steps`: frames that are padded are not computed."""
    with FlopCounterMode(display=False) as counter:
        list(islice(loop, steps))
    return counter.get_total_flops() / steps


def matmul_ceiling(device: torch.device, dtype: torch.dtype, turns: int = 5) -> float:
    """FLOP a second of products of two large square matrices, the best of `turns`."""
    side = 8192 if device.type == "cuda" else 2048
    left, right = torch.randn(2, side, side, device=device, dtype=dtype)
    seconds = []
    for _ in range(1 + turns):
        begun = time.perf_counter()
        left @ right
        _finish(device)
        seconds.append(time.perf_counter() - begun)
    return 2 * side**3 / min(seconds[1:])  # the first warms up


def _finish(device: torch.device) -> None:
    """Waits for what a GPU was told to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def plain_steps(run: Run, drawer: BatchDrawer) -> Iterator[int]:
    """A loop over the run's modules and its optimizer, at the peak rates; clips of each step."""
    for group in run.optimizer.param_groups:
        group["lr"] = group["peak"]
    for step in count():
        batch = drawer.draw(step)
        run.task.train_mode(run.model)
        run.optimizer.zero_grad(set_to_none=True)
        plain_backward(run, batch)
        run.clip_gradients()
        run.optimizer.step()
        yield len(batch.product)


def plain_backward(run: Run, batch: Batch) -> None:
    """In the run's precision and with its choice of attention kernels, what is computed again in
    backward included."""
    precision = run.compute.precision
    with sdpa_kernel(attention_kernels(run.device)):
        with torch.autocast(run.device.type, DTYPES[precision], enabled=precision != "fp32"):
            losses = run.losses(batch)
        run.task.total(losses).backward()
