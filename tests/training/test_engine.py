"""Runs: they learn, they resume exactly, and their checkpoints carry the recipe."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.training.tiny import RECIPE, photographs
from training import engine, objective
from training.checkpoint import Checkpoint, CheckpointError, load, of_model, save
from training.configs import Compute, Precision, Recipe, Schedule, Source, recipe_from_dict
from training.data.batches import BatchDrawer
from training.data.errors import DataError
from training.engine import learning_rate_share
from training.models.encoder import resized_positions
from training.models.rice import Rice, RiceConfig
from training.recipes import RECIPES
from training.tasks import RecognitionTask


class KilledError(Exception):
    """Stands for a kill: the run ends between two steps."""


def losses_of(
    recipe: Recipe, out: Path, stop_after: int | None = None, compute: Compute | None = None
) -> list[float]:
    seen: list[float] = []

    def watch(progress: engine.Progress) -> None:
        if progress.losses:
            seen.append(progress.losses["icl"] + progress.losses["pmd"])
        if progress.step == stop_after:
            raise KilledError

    data = photographs()
    with contextlib.suppress(KilledError):
        engine.fit(
            recipe, {"made": data}, data, out,
            device=torch.device("cpu"), compute=compute, watch=watch,
        )  # fmt: skip
    return seen


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole = losses_of(RECIPE, tmp_path / "whole")
    killed = losses_of(RECIPE, tmp_path / "killed", stop_after=4)
    assert killed == whole[:4]
    resumed = losses_of(RECIPE, tmp_path / "killed")
    assert resumed == whole[3:], "it goes on from the last checkpoint, at step 3"
    for name in ("last.safetensors", "best.safetensors"):
        expected, got = load(tmp_path / "whole" / name), load(tmp_path / "killed" / name)
        assert got.state == expected.state
        assert got.tensors.keys() == expected.tensors.keys()
        assert all(torch.equal(got.tensors[k], v) for k, v in expected.tensors.items())


def test_the_curves_of_a_resumed_run_go_on_where_it_does(tmp_path: Path) -> None:
    losses_of(RECIPE, tmp_path, stop_after=5)
    losses_of(RECIPE, tmp_path)
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for curve, steps in (("loss/icl", [1, 2, 3, 4, 5, 6]), ("validation/fused_r1", [3, 6])):
        assert [event.step for event in board.Scalars(curve)] == steps


def test_a_run_whose_validation_failed_goes_on_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise DataError("a broken file")

    with monkeypatch.context() as patched, pytest.raises(DataError):
        patched.setattr(RecognitionTask, "judge", fail)
        losses_of(RECIPE, tmp_path / "failed")
    whole = losses_of(RECIPE, tmp_path / "whole")
    assert losses_of(RECIPE, tmp_path / "failed") == whole[3:]
    for name in ("last.safetensors", "best.safetensors"):
        assert load(tmp_path / "failed" / name).state == load(tmp_path / "whole" / name).state


def test_half_precision_scales_its_loss_and_resumes_with_its_scale(tmp_path: Path) -> None:
    half = Compute("fp16")
    whole = losses_of(RECIPE, tmp_path / "whole", compute=half)
    killed = losses_of(RECIPE, tmp_path / "killed", stop_after=4, compute=half)
    assert killed + losses_of(RECIPE, tmp_path / "killed", compute=half)[1:] == whole
    state = load(tmp_path / "killed" / "last.safetensors").state
    assert state == load(tmp_path / "whole" / "last.safetensors").state
    assert state["scaler"] != torch.amp.GradScaler("cpu").state_dict(), "it has grown or overflowed"


def test_a_run_of_another_precision_goes_on_in_half(tmp_path: Path) -> None:
    losses_of(RECIPE, tmp_path, stop_after=4, compute=Compute("bf16"))
    assert len(losses_of(RECIPE, tmp_path, compute=Compute("fp16"))) == 3


def test_half_precision_gives_nearly_the_gradients_of_full(tmp_path: Path) -> None:
    recipe = replace(RECIPE, seed=1)  # of others rounding may choose other wrong pairs
    batch = BatchDrawer(recipe, {"made": photographs()}, torch.device("cpu")).draw(0)

    def gradient(precision: Precision) -> torch.Tensor:
        run = engine.Run(recipe, tmp_path, torch.device("cpu"), compute=Compute(precision))
        run.scaler = torch.amp.GradScaler("cpu", init_scale=64, enabled=precision == "fp16")
        run.backward(0, batch)
        run.scaler.unscale_(run.optimizer)
        return torch.cat([p.grad.flatten() for p in run.model.parameters() if p.grad is not None])

    full = gradient("fp32")
    assert (gradient("fp16") - full).norm() < 0.05 * full.norm()


def test_the_averaged_weights_follow_by_the_decay(tmp_path: Path) -> None:
    run = engine.Run(RECIPE, tmp_path, torch.device("cpu"))
    before = run.averaged.temperature.item()
    with torch.no_grad():
        run.model.temperature += 1.0
    run._average(step=1000)
    assert run.averaged.temperature.item() == pytest.approx(before + 0.1)


def test_a_frozen_encoder_stays_as_it_began_and_the_decoder_learns(tmp_path: Path) -> None:
    losses_of(RECIPE, tmp_path / "first")
    start = load(tmp_path / "first" / "best.safetensors")
    recipe = replace(RECIPE, schedule=replace(RECIPE.schedule, encoder_rate=0.0))
    data = photographs()
    out = tmp_path / "second"
    engine.fit(recipe, {"made": data}, data, out, device=torch.device("cpu"), start=start)
    kept = load(out / "last.safetensors").group("training")
    for name, value in start.group("model").items():
        moved = not torch.equal(kept[name], value)
        assert moved != name.startswith("encoder."), name


def test_starting_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    other = replace(RECIPE, model=replace(RECIPE.model, own_direction=True))
    start = Checkpoint(other, {}, {})
    with pytest.raises(CheckpointError, match="another model"):
        engine.Run(RECIPE, tmp_path, torch.device("cpu"), start)


def test_larger_pictures_begin_with_what_smaller_ones_taught(tmp_path: Path) -> None:
    encoder = replace(RECIPE.model.encoder, image_size=2 * RECIPE.image_size)
    larger = replace(RECIPE, model=replace(RECIPE.model, encoder=encoder))
    small = engine.Run(RECIPE, tmp_path, torch.device("cpu")).model
    start = of_model(RECIPE, small)
    model = engine.Run(larger, tmp_path, torch.device("cpu"), start).model
    for name, value in small.state_dict().items():
        if name != "encoder.positions":
            assert torch.equal(model.state_dict()[name], value), name
    assert torch.equal(model.encoder.positions[0], small.encoder.positions[0])


def test_positions_are_interpolated_where_they_lie() -> None:
    across = torch.arange(4.0).expand(4, 4)  # a ramp from left to right
    positions = torch.cat([torch.tensor([-9.0]), across.flatten()])[:, None]
    resized = resized_positions(positions, 64)
    assert resized[0].item() == -9
    grid = resized[1:, 0].unflatten(0, (8, 8))
    assert (grid.diff(dim=1) > 0).all() and torch.allclose(grid, grid[:1].expand(8, 8))
    assert torch.equal(resized_positions(positions, 16), positions)


def test_a_run_that_diverges_stops_and_spoils_nothing(tmp_path: Path) -> None:
    schedule = replace(RECIPE.schedule, encoder_rate=1e30, matching_rate=1e30, clip_norm=1e30)
    with pytest.raises(engine.DivergedError, match="step"):
        losses_of(replace(RECIPE, schedule=schedule), tmp_path)


def test_cosines_are_computed_in_full_precision() -> None:
    model = Rice(RECIPE.model).train()
    batch = BatchDrawer(RECIPE, {"made": photographs()}, torch.device("cpu")).draw(0)
    seen = []
    original = objective.icl_loss

    def spy(similarity: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        seen.append(similarity.dtype)
        return original(similarity, *rest)

    with pytest.MonkeyPatch.context() as patch, torch.autocast("cpu", torch.bfloat16):
        patch.setattr(objective, "icl_loss", spy)
        objective.rice_losses(model, batch, RECIPE)
    assert seen == [torch.float32]


def test_another_recipe_does_not_resume(tmp_path: Path) -> None:
    losses_of(RECIPE, tmp_path)
    with pytest.raises(CheckpointError, match="another recipe"):
        losses_of(replace(RECIPE, seed=1), tmp_path)


def test_a_run_learns(tmp_path: Path) -> None:
    recipe = replace(RECIPE, schedule=replace(RECIPE.schedule, steps=40, evaluate_every=40))
    seen = losses_of(recipe, tmp_path)
    assert sum(seen[-5:]) < 0.8 * sum(seen[:5])


def test_a_paper_style_run_learns_and_keeps_its_scale(tmp_path: Path) -> None:
    model = replace(
        RECIPE.model,
        tokens="projected",
        frame_pooling="mean_of_unit",
        icl_scale="fixed",
        matching_head="linear",
        self_block_from="text",
        reconstruction="plain",
    )
    recipe = replace(RECIPE, model=model, reconstruction_weight=0.05)
    seen = losses_of(recipe, tmp_path)
    assert all(math.isfinite(loss) for loss in seen)
    first, last = Rice(model).state_dict(), load(tmp_path / "last.safetensors").group("training")
    assert last["temperature"] == first["temperature"] == 10
    torch.manual_seed(recipe.seed)
    begun = Rice(model).state_dict()
    trained = {name for name, value in begun.items() if not torch.equal(last[name], value)}
    assert {name.split(".")[0] for name in trained} == {"encoder", "decoder", "reconstruction"}


def test_the_best_checkpoint_is_a_model_with_its_recipe(tmp_path: Path) -> None:
    losses_of(RECIPE, tmp_path)
    kept = load(tmp_path / "best.safetensors")
    assert kept.recipe == RECIPE
    assert not kept.model().training


def test_what_is_not_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        load(tmp_path / "none.safetensors")
    for recipe in ("[]", '{"model": []}'):
        told = {"recipe": recipe, "state": "{}"}
        save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors", told)
        with pytest.raises(CheckpointError, match="not a checkpoint"):
            load(tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load(tmp_path / "text.safetensors")
    save(tmp_path / "x.safetensors", Checkpoint(RECIPE, {"model.x": torch.zeros(1)}, {}))
    assert not (tmp_path / "x.partial").exists()


def test_weights_that_do_not_fit_and_files_that_cannot_be_written_are_told(tmp_path: Path) -> None:
    kept = Checkpoint(RECIPE, {"model.x": torch.zeros(1), "training.x": torch.zeros(1)}, {})
    with pytest.raises(CheckpointError, match="tiny: the weights do not fit"):
        kept.model()
    save(tmp_path / "last.safetensors", kept)
    with pytest.raises(CheckpointError, match="tiny: the weights do not fit"):
        losses_of(RECIPE, tmp_path)
    with pytest.raises(CheckpointError, match=r"x.safetensors cannot be written"):
        save(tmp_path / "gone" / "x.safetensors", kept)


def test_a_recipe_with_an_unknown_field_is_refused() -> None:
    values = RECIPE.to_dict()
    values["schedule"]["warmpu"] = 3
    with pytest.raises(ValidationError, match="warmpu"):
        recipe_from_dict(values)


def test_a_checkpoint_from_before_a_field_existed_means_what_was_done_then(tmp_path: Path) -> None:
    """A killed run of `grocery_small` goes on under a version that knows PFR and dropout."""
    recipe = RECIPES["grocery_small"]
    path = tmp_path / "x.safetensors"
    values = recipe.to_dict()
    for field in ("contest", "reconstruction_weight"):
        del values[field]
    for field in set(values["model"]) - {"encoder", "frames", "matching_heads", "own_direction"}:
        del values["model"][field]
    del values["model"]["encoder"]["activation"]
    save_file(
        {"model.x": torch.zeros(1)}, path, {"recipe": json.dumps(values), "state": '{"step": 1}'}
    )
    assert load(path).recipe == recipe


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_valid_and_survives_json(name: str) -> None:
    assert RECIPES[name].name == name
    assert recipe_from_dict(RECIPES[name].to_dict()) == RECIPES[name]


@pytest.mark.parametrize("data", ["lpr4m", "lpr750k", "movingfashion"])
def test_the_published_recipes_are_the_released_codes(data: str) -> None:
    recipe = RECIPES[f"rice_vitb32_{data}"]
    schedule, encoder = recipe.schedule, recipe.model.encoder
    assert (schedule.encoder_rate, schedule.matching_rate) == (1e-6, 1e-4)
    assert (schedule.weight_decay, schedule.eps) == (0.2, 1e-6)
    assert (schedule.warmup, schedule.steps) == (500, 5000)
    assert schedule.clip_norm is None
    assert (encoder.patch_size, encoder.image_size, encoder.width, encoder.layers) == (
        32, 224, 768, 12,
    )  # fmt: skip
    assert recipe.model == RiceConfig()
    assert (recipe.hard_negatives, recipe.contest, recipe.tail_cut) == (3, "clips", 0.5)
    assert (recipe.matching_weight, recipe.reconstruction_weight) == (1, 1)
    [source] = recipe.sources
    assert source.name == source.layout == data
    assert 96 <= source.products * source.clips_per_product <= 128
    assert source.frames == recipe.model.frames == 10


@pytest.mark.parametrize(
    "wrong",
    [
        {"validate_on": "elsewhere"},
        {"hard_negatives": 0},
        {"matching_weight": -1.0},
        {"reconstruction_weight": -1.0},
        {"model": replace(RECIPE.model, reconstruction=None)},
        {"sources": (*RECIPE.sources, *RECIPE.sources)},
        {"sources": (Source("made", "pictures", products=1),)},
    ],
)
def test_nonsense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"made|elsewhere|hard_negatives|repeat|_weight"):
        replace(RECIPE, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("norm", [0.0, -1.0, math.nan])
def test_gradients_are_clipped_to_a_positive_norm(norm: float) -> None:
    with pytest.raises(ValueError, match="clip_norm must be positive"):
        replace(RECIPE.schedule, clip_norm=norm)


def test_gradients_may_be_left_as_long_as_they_are(tmp_path: Path) -> None:
    def stepped(clip_norm: float | None) -> float:
        recipe = replace(RECIPE, schedule=replace(RECIPE.schedule, clip_norm=clip_norm))
        run = engine.Run(recipe, tmp_path, torch.device("cpu"), compute=Compute("fp32"))
        run.train(0, BatchDrawer(recipe, {"made": photographs()}, run.device).draw(0))
        return math.hypot(
            *(p.grad.norm().item() for p in run.model.parameters() if p.grad is not None)
        )

    assert stepped(0.01) == pytest.approx(0.01, rel=1e-3)
    assert stepped(None) > 0.1


def test_a_run_goes_on_with_the_clipping_that_it_began_with(tmp_path: Path) -> None:
    losses_of(RECIPE, tmp_path, stop_after=4)
    now = replace(RECIPE, schedule=replace(RECIPE.schedule, clip_norm=None))
    assert len(losses_of(now, tmp_path)) == 3, "from step 3 to 6"
    assert load(tmp_path / "last.safetensors").recipe == RECIPE


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    schedule = Schedule(steps=100, warmup=10)
    shares = [learning_rate_share(step, schedule) for step in range(100)]
    assert shares[0] == 0.1
    assert max(shares) == shares[9] == 1.0
    assert shares[-1] < 1e-3
