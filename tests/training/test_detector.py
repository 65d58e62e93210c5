"""Detectors: what padding and other frames may and may not change, the losses, how they are
scored, and that a run on LPR-Synth learns, resumes exactly and begins with a smaller one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import RTDetrConfig
from transformers.loss.loss_rt_detr import RTDetrLoss
from typer.testing import CliRunner

from tests.training import tiny
from training import cli, engine
from training.checkpoint import (
    CheckpointError,
    DetectorCheckpoint,
    load,
    load_any,
    load_detector,
    of_model,
    save,
)
from training.configs import Compute, DetectorRecipe, Schedule, Source, View, recipe_from_dict
from training.data.batches import Batch
from training.data.frames import Frame
from training.data.given import judged_set
from training.data.opening import open_judging, open_training
from training.data.queries import QuerySet
from training.data.records import Query
from training.data.synthetic.writer import Synth, write_synth
from training.detection_loss import DetectionObjective, detection_loss
from training.evaluation import detection
from training.evaluation.detection import FoundClip
from training.evaluation.detection_picture import TILE, draw_found
from training.export import commands
from training.export.errors import ExportError
from training.export.wrappers import Detector
from training.models.build import build_model
from training.models.detector import (
    ClipDetector,
    Detections,
    DetectorConfig,
    best_of_frame,
    centred,
    corners,
    likenesses,
    peaks,
)
from training.models.looking import Looked, Looking
from training.recipes import DETECTOR_RECIPES, RECIPES
from training.terminal import progress_bars

CPU = torch.device("cpu")
CONFIG = DetectorConfig(
    image_size=32, patch_size=8, width=32, heads=2, encoder_layers=1, decoder_layers=2, queries=4
)
CLIP_CONFIG = replace(CONFIG, temporal_layers=1)
RECIPE = DetectorRecipe(
    name="tiny_detector",
    model=CONFIG,
    sources=(Source("synth", "lpr4m", products=4, frames=3),),
    validate_on="synth",
    schedule=Schedule(
        steps=4, warmup=1, encoder_rate=1e-3, matching_rate=1e-3, ema=0.5, evaluate_every=2
    ),
    frame_view=View(erase=0.0),
)
BOX = (0.2, 0.3, 0.6, 0.8)


@pytest.fixture(scope="module")
def synth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synth")
    write_synth(out, Synth(clips=90, seed=1, size=64, frames=3, shop_size=6))
    return out


def model(config: DetectorConfig = CLIP_CONFIG) -> ClipDetector:
    """With weights wide enough that frames matter to each other."""
    torch.manual_seed(0)
    made = ClipDetector(config).eval()
    if made.temporal is not None:
        torch.nn.init.normal_(made.temporal.change.weight)
    return made


def clips(frames: int = 3) -> torch.Tensor:
    return torch.randn(2, frames, 3, 32, 32, generator=torch.Generator().manual_seed(1))


# The model.


@torch.inference_mode()
def test_a_frames_detector_judges_each_frame_alone_and_a_clips_does_not() -> None:
    pixels, mask = clips(), torch.ones(2, 3, dtype=torch.bool)
    other = pixels.clone()
    other[:, 2] = 0.0
    for config, same in ((CONFIG, True), (CLIP_CONFIG, False)):
        one, two = model(config)(pixels, mask), model(config)(other, mask)
        assert torch.allclose(one.boxes[:, :2], two.boxes[:, :2], atol=1e-5) is same
        assert torch.allclose(one.logits[:, :2], two.logits[:, :2], atol=1e-5) is same


@torch.inference_mode()
def test_padded_frames_have_no_say() -> None:
    pixels, mask = clips(), torch.tensor([[True, True, False], [True, False, False]])
    spoiled = pixels.clone()
    spoiled[~mask] = 7.0
    one, two = model()(pixels, mask), model()(spoiled, mask)
    assert torch.allclose(one.logits[mask], two.logits[mask], atol=1e-5)
    shorter = model()(pixels[:1, :2], mask[:1, :2])
    assert torch.allclose(one.logits[0, :2], shorter.logits[0], atol=1e-5)


@torch.inference_mode()
def test_the_last_stage_of_training_is_the_answer() -> None:
    pixels, mask = clips(), torch.tensor([[True, True, True], [True, False, False]])
    stages = model().stages(pixels, mask)
    assert len(stages) == 1 + CONFIG.decoder_layers + 1
    answer = model()(pixels, mask)
    assert torch.allclose(stages[-1].logits, answer.logits[mask], atol=1e-5)
    assert torch.allclose(stages[-1].boxes, answer.boxes[mask], atol=1e-5)


@torch.inference_mode()
def test_temporal_layers_begin_with_what_single_frames_say() -> None:
    torch.manual_seed(0)
    new = ClipDetector(CLIP_CONFIG).eval()
    mask = torch.ones(2, 3, dtype=torch.bool)
    stages = new.stages(clips(), mask)
    assert torch.equal(stages[-1].logits, stages[-2].logits)
    assert torch.allclose(stages[-1].boxes, stages[-2].boxes, atol=1e-4)


def scene() -> tuple[torch.Tensor, Detections]:
    """A clip of three frames of a wall with a picture at the left, and three boxes of each: the
    product, which is moved and in the last frame held beside another, the other, and the picture.
    """
    noise = torch.Generator().manual_seed(3)
    product, other, picture = (torch.randn(3, 8, 8, generator=noise) for _ in range(3))
    frames = torch.zeros(1, 3, 3, 32, 32)
    boxes = torch.zeros(1, 3, 3, 4)
    for frame, (column, beside) in enumerate(((10, None), (14, None), (22, 12))):
        seen = frames[0, frame]
        seen[:, 2:10, 0:8] = picture
        if beside is not None:
            seen[:, 20:28, beside : beside + 8] = other
        seen[:, 20:28, column : column + 8] = product
        for query, (left, top) in enumerate(((column, 20), (beside or 0, 12), (0, 2))):
            boxes[0, frame, query] = torch.tensor([left + 4, top + 4, 8, 8]) / 32
    boxes[0, 2, 1, 1] = boxes[0, 2, 0, 1]
    logits = torch.tensor([[[2.0, -4.0, -4.0], [2.0, -4.0, -4.0], [0.0, 0.0, -4.0]]])
    return frames, Detections(logits, boxes)


def test_of_two_held_alike_one_is_like_the_product_of_other_frames() -> None:
    frames, found = scene()
    agreed, mean, most = likenesses(frames, found, torch.ones(1, 3, dtype=torch.bool)).unbind(-1)
    assert agreed[0, 2, 0] > 0.9 and agreed[0, 2, 1] < 0.4
    assert (mean[0, :, 2] > 0.99).all() and (most[0, :, 2] > 0.99).all(), "the picture stays"
    assert (mean[0, :, 0] < 0.6).all(), "the product is moved"


def test_clips_are_compared_with_nothing_but_themselves() -> None:
    frames, found = scene()
    other = Detections(found.logits, found.boxes.flip(2))
    mask = torch.ones(2, 3, dtype=torch.bool)
    both = Detections(*(torch.cat(each) for each in zip(found, other, strict=True)))
    together = likenesses(torch.cat([frames, frames.flip(1)]), both, mask)
    assert torch.allclose(together[:1], likenesses(frames, found, mask[:1]), atol=1e-6)
    assert torch.allclose(together[1:], likenesses(frames.flip(1), other, mask[1:]), atol=1e-6)


def test_padded_frames_are_like_nothing_and_nothing_is_like_them() -> None:
    frames, found = scene()
    mask = torch.tensor([[True, True, False]])
    shorter = likenesses(frames[:, :2], Detections(*(v[:, :2] for v in found)), mask[:, :2])
    spoiled = frames.clone()
    spoiled[:, 2] = torch.randn(3, 32, 32)
    assert torch.allclose(likenesses(spoiled, found, mask)[:, :2], shorter, atol=1e-6)
    alone = likenesses(frames, found, torch.tensor([[True, False, False]]))
    assert (alone[0, 0] == 0).all()


def test_temporal_layers_move_boxes_too() -> None:
    detector = model()
    stages = detector.stages(clips(), torch.ones(2, 3, dtype=torch.bool))
    assert (stages[-1].boxes - stages[-2].boxes).abs().max() > 0.01
    stages[-1].boxes.sum().backward()
    assert detector.temporal is not None
    assert detector.temporal.change.weight.grad is not None
    assert detector.temporal.change.weight.grad[1:].abs().min() > 0


def test_queries_are_spread_over_the_frame() -> None:
    """Of two products, the fainter is looked at before what lies beside the other."""
    grid = torch.full((1, 8, 8), -5.0)
    grid[0, 1, 1:3] = torch.tensor([3.0, 2.0])
    grid[0, 6, 5] = -1.0
    assert peaks(grid.flatten(1)).topk(2).indices.tolist() == [[9, 53]]
    plain = torch.arange(4.0)[None]
    assert peaks(plain).topk(4).indices.tolist() == [[3, 2, 1, 0]], "none is left out"


@pytest.mark.parametrize("first_stride", [2, 4, 8])
def test_the_first_convolution_may_halve_more_than_once(first_stride: int) -> None:
    config = replace(CONFIG, first_stride=first_stride)
    assert model(config)(clips(), torch.ones(2, 3, dtype=torch.bool)).logits.shape == (2, 3, 4)


def test_the_best_box_of_a_frame() -> None:
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.1, 0.1, 0.4, 0.4]])
    box, score = best_of_frame(Detections(torch.tensor([-1.0, 2.0]), boxes))
    assert box.tolist() == pytest.approx([0.0, 0.0, 0.3, 0.3]), "cut to the frame"
    assert score.item() == pytest.approx(1 / (1 + np.exp(-2)))
    assert corners(centred(torch.tensor(BOX))).tolist() == pytest.approx(BOX)


@pytest.mark.parametrize(
    "change", [{"image_size": 33}, {"width": 36, "heads": 3}, {"queries": 17}, {"queries": 0},
               {"decoder_layers": 0}, {"temporal_layers": -1}, {"frames": 0}, {"first_stride": 3},
               {"first_stride": 1}, {"first_stride": 16}]
)  # fmt: skip
def test_nonsense_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        replace(CONFIG, **change)


# The loss.


def stage(*boxes: tuple[float, ...], logits: tuple[float, ...]) -> Detections:
    return Detections(torch.tensor([logits]), centred(torch.tensor([boxes])))


def test_a_right_box_costs_nothing_and_a_wrong_one_does() -> None:
    truth = torch.tensor([[BOX]])
    right = detection_loss([stage(BOX, (0.0, 0.0, 0.1, 0.1), logits=(9.0, -9.0))], truth)
    assert all(loss.item() == pytest.approx(0, abs=1e-3) for loss in right.values())
    moved = detection_loss([stage((0.5, 0.3, 0.9, 0.8), logits=(9.0,))], truth)
    assert moved["box"].item() > 1 and moved["giou"].item() > 1
    unsure = detection_loss([stage(BOX, (0.0, 0.0, 0.1, 0.1), logits=(-2.0, 2.0))], truth)
    assert unsure["score"].item() > 1, "the product's box is to have the score"


@pytest.mark.parametrize(("queries", "copies"), [(8, 1), (64, 4), (2, 3)])
def test_losses_are_those_of_transformers(queries: int, copies: int) -> None:
    """With no, one and two boxes in a frame; also where boxes are more than queries."""
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(9, 2, 2, generator=generator) / 2
    boxes = torch.cat([low, low + 0.1 + 0.3 * torch.rand(9, 2, 2, generator=generator)], dim=-1)
    boxes[::3], boxes[1::3, 1] = 0.0, 0.0
    given = 0.2 + 0.5 * torch.rand(9, queries, 4, generator=generator)
    logits = torch.randn(9, queries, generator=generator)
    ours = detection_loss([Detections(logits, given)], boxes, copies=copies)
    shown = [centred(f[detection.has_area(f)]).repeat(copies, 1) for f in boxes]
    targets = [{"boxes": f, "class_labels": torch.zeros(len(f)).long()} for f in shown]
    criterion = RTDetrLoss(RTDetrConfig(id2label={0: "intended product"}))
    theirs = criterion({"logits": logits[..., None], "pred_boxes": given}, targets)
    for name, key in (("score", "loss_vfl"), ("box", "loss_bbox"), ("giou", "loss_giou")):
        assert ours[name].item() == pytest.approx(theirs[key].item(), rel=1e-4), name


def test_each_stage_counts() -> None:
    truth, wrong = torch.tensor([[BOX]]), stage((0.5, 0.3, 0.9, 0.8), logits=(9.0,))
    once, twice = detection_loss([wrong], truth), detection_loss([wrong, wrong], truth)
    for name, loss in once.items():
        assert twice[name].item() == pytest.approx(2 * loss.item(), rel=1e-5)


def test_a_box_may_be_matched_with_several_queries() -> None:
    """So are tokens: it is then no mistake that two of them see the product."""
    truth, both = torch.tensor([[BOX]]), stage(BOX, BOX, logits=(9.0, 9.0))
    assert detection_loss([both], truth)["score"].item() > 1
    for loss in detection_loss([both], truth, copies=2).values():
        assert loss.item() == pytest.approx(0, abs=1e-3)


def test_without_focal_weights_scores_are_probabilities() -> None:
    """What three queries of four say wrongly costs as much as what one says rightly saves."""
    boxes = [BOX, *[(0.0, 0.0, 0.1, 0.1)] * 3]
    plain, focal = (
        detection_loss([stage(*boxes, logits=(0.0,) * 4)], torch.tensor([[BOX]]), focal=f)
        for f in (False, True)
    )
    assert plain["score"].item() == pytest.approx(4 * np.log(2), rel=1e-5)
    assert focal["score"].item() == pytest.approx((1 + 3 * 0.75 / 4) * np.log(2), rel=1e-5)
    assert plain["giou"].item() == focal["giou"].item()


def test_what_is_frozen_is_not_judged() -> None:
    """The losses are those of what the temporal layers say, and reach nothing else."""
    detector, mask = model(), torch.ones(2, 3, dtype=torch.bool)
    boxes = torch.tensor(BOX).expand(2, 3, 1, 4)
    batch = Batch(torch.zeros(2, 3, 32, 32), clips(), mask, torch.arange(2), torch.zeros(2, 2),
                  boxes, mask)  # fmt: skip
    every = DetectionObjective(detector)(batch)["score"].item()
    detector.single.requires_grad_(requires_grad=False)
    losses = DetectionObjective(detector)(batch)
    judged = detector.stages(clips(), mask)[-1]
    expected = detection_loss([judged], boxes.flatten(0, 1), focal=False)
    assert losses["score"].item() == pytest.approx(expected["score"].item(), rel=1e-5)
    assert losses["score"].item() < every
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in detector.temporal.parameters())


def test_a_frame_without_the_product_wants_no_score() -> None:
    nothing = torch.zeros(1, 1, 4)
    loud = detection_loss([stage(BOX, logits=(5.0,))], nothing)
    quiet = detection_loss([stage(BOX, logits=(-9.0,))], nothing)
    assert loud["score"].item() > 1 > 1e-2 > quiet["score"].item()
    assert loud["box"].item() == loud["giou"].item() == 0
    unknown = detection_loss([Detections(torch.zeros(0, 1), torch.zeros(0, 1, 4))], nothing[:0])
    assert {loss.item() for loss in unknown.values()} == {0.0}


# How it is scored.


def found(
    boxes: list[tuple[float, ...]], scores: list[float], truth: list[tuple[float, ...]]
) -> FoundClip:
    """One box a frame."""
    frames = [Frame(np.zeros((8, 8, 3), np.uint8), ())] * len(boxes)
    return FoundClip(
        0, frames, torch.tensor(boxes)[:, None], torch.tensor(scores)[:, None],
        torch.tensor(truth)[:, None],
    )  # fmt: skip


NONE = (0.0, 0.0, 0.0, 0.0)
HALF_OFF = (0.4, 0.3, 0.8, 0.8)  # IoU 1/3
MIXED = found([BOX, HALF_OFF, BOX, BOX], [0.9, 0.8, 0.3, 0.2], [BOX, BOX, NONE, NONE])


def test_intended_accuracy_counts_frames_that_show_the_product() -> None:
    assert detection.intended_accuracy([MIXED]) == 0.5
    assert detection.intended_accuracy([found([BOX], [0.9], [NONE])]) == 0.0
    assert detection.frame_accuracy([MIXED], 0.5) == 0.75
    assert detection.frame_accuracy([MIXED], 0.25) == 0.5
    assert 0.3 < detection.best_threshold([MIXED]) <= 0.9


def test_average_precision_is_cocos() -> None:
    assert detection.average_precision([MIXED]) == pytest.approx((0.505, 0.505), abs=0.001)
    every = found([BOX, BOX], [0.9, 0.8], [BOX, BOX])
    assert detection.average_precision([every]) == pytest.approx((1, 1))
    near = found([(0.2, 0.3, 0.6, 0.68)], [0.9], [BOX])  # IoU 0.76: six of COCO's ten thresholds
    assert detection.average_precision([near]) == pytest.approx((0.6, 1.0), abs=1e-3)
    assert detection.average_precision([found([BOX], [0.9], [NONE])]) == (0.0, 0.0)


def test_iou_is_that_of_areas() -> None:
    one, other = torch.tensor(BOX), torch.tensor(HALF_OFF)
    assert detection.iou(one, other).item() == pytest.approx(1 / 3)
    assert detection.iou(one, one).item() == pytest.approx(1)
    assert detection.iou(one, torch.tensor(NONE)).item() == 0


def test_groups_are_of_clips() -> None:
    queries = [Query("a", "l", (), (), scale="small"), Query("b", "l", (), (), scale="large")]
    data = QuerySet(queries, {}, None, None, None)  # type: ignore[arg-type]
    good, bad = found([BOX], [0.9], [BOX]), found([HALF_OFF], [0.9], [BOX])
    groups = detection.by_group([good, replace(good), replace(bad, query=1)], data)
    assert groups == {"scale": {"large": (1, 0.0), "small": (2, 1.0)}}


def test_hits_are_drawn_white_and_misses_red() -> None:
    sheet = draw_found([MIXED], ["a clip"], 0.5)
    colours = {colour for _, colour in sheet.getcolors(maxcolors=10**6)}
    assert sheet.width > 4 * TILE
    assert {(40, 200, 90), (255, 255, 255), (230, 40, 40)} <= colours


# Runs.


class KilledError(Exception):
    """Stands for a kill: the run ends between two steps."""


def fit(folder: Path, out: Path, recipe: DetectorRecipe = RECIPE, stop: int | None = None) -> Path:
    def watch(progress: engine.Progress) -> None:
        if progress.step == stop:
            raise KilledError

    data = {"synth": open_training(recipe.sources[0], folder, 36, lambda paths: paths)}
    val = open_judging("lpr4m", folder, "val", 36, lambda paths: paths)
    return engine.fit(recipe, data, val, out, device=CPU, compute=Compute("fp32"), watch=watch)


def test_a_killed_run_goes_on_as_if_nothing_had_been(synth: Path, tmp_path: Path) -> None:
    whole = load_detector(fit(synth, tmp_path / "whole").parent / "last.safetensors")
    with pytest.raises(KilledError):
        fit(synth, tmp_path / "killed", stop=3)
    resumed = load_detector(fit(synth, tmp_path / "killed").parent / "last.safetensors")
    assert whole.recipe == resumed.recipe == RECIPE
    for name, tensor in whole.tensors.items():
        assert torch.equal(tensor, resumed.tensors[name]), name
    assert 0 < whole.state["threshold"] < 1
    assert whole.detector()(clips()[:1], torch.ones(1, 3, dtype=torch.bool)).boxes.shape[2] == 4


def test_a_run_that_is_stopped_before_it_judges_has_no_threshold(tmp_path: Path) -> None:
    kept = DetectorCheckpoint(RECIPE, {}, {"judged": False})
    with pytest.raises(CheckpointError, match=f"{RECIPE.name}: .* resume it"):
        _ = kept.threshold
    save(tmp_path / "last.safetensors", kept)
    command = ["detect", str(tmp_path / "last.safetensors"), "--data", "synth=none"]
    result = CliRunner().invoke(cli.app, [*command, "--picture", str(tmp_path / "x.png")])
    assert result.exit_code == 1 and "resume it" in result.output


def test_a_clips_detector_begins_with_a_frames(synth: Path, tmp_path: Path) -> None:
    single = load_any(fit(synth, tmp_path / "single"))
    recipe = replace(RECIPE, model=CLIP_CONFIG)
    run = engine.Run(recipe, tmp_path / "clip", CPU, single)
    expected = single.group("model")
    for name, tensor in run.model.state_dict().items():
        assert name.startswith("temporal.") or torch.equal(tensor, expected[name]), name
    other = replace(RECIPE, model=replace(CONFIG, queries=5, width=64))
    with pytest.raises(CheckpointError, match="do not fit"):
        engine.Run(other, tmp_path / "other", CPU, single)
    with pytest.raises(CheckpointError, match="is of a detector"):
        load(tmp_path / "single" / "best.safetensors")


def test_it_learns_where_the_product_is(synth: Path, tmp_path: Path) -> None:
    schedule = replace(RECIPE.schedule, steps=60, encoder_rate=2e-3, evaluate_every=60)
    told: list[dict[str, float]] = []
    data = {"synth": open_training(RECIPE.sources[0], synth, 36, lambda paths: paths)}
    val = open_judging("lpr4m", synth, "val", 36, lambda paths: paths)
    engine.fit(
        replace(RECIPE, schedule=schedule), data, val, tmp_path / "run", device=CPU,
        compute=Compute("fp32"), watch=lambda progress: told.append(progress.losses),
    )  # fmt: skip

    def mean(name: str, part: slice) -> float:
        return float(np.mean([losses[name] for losses in told[part]]))

    for name in ("box", "giou"):
        assert mean(name, slice(-10, None)) < 0.8 * mean(name, slice(10)), name


@pytest.mark.parametrize("name", sorted(DETECTOR_RECIPES))
def test_recipes_travel_in_checkpoints(name: str) -> None:
    recipe = DETECTOR_RECIPES[name]
    assert recipe_from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


@pytest.mark.parametrize(
    "change",
    [
        {"sources": (Source("synth", "photographs", products=2),)},
        {"sources": (Source("synth", "lpr4m", products=2, frames=11),)},
        {"validate_on": "other"},
        {"schedule": Schedule(steps=4, warmup=1, encoder_rate=0.0)},
    ],
)
def test_recipes_that_cannot_learn_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        replace(RECIPE, **change)  # type: ignore[arg-type]


def test_the_command_scores_and_draws(synth: Path, tmp_path: Path) -> None:
    best = fit(synth, tmp_path / "run")
    picture = tmp_path / "found.png"
    arguments = [
        "detect",
        best,
        "--data",
        f"synth={synth}",
        "--split",
        "test",
        "--picture",
        picture,
    ]
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout.splitlines()[-1])
    assert {"ap", "ap50", "intended", "frames", "clips"} <= told.keys()
    assert set(told["groups"]) == {"scale", "duration", "products"}
    assert picture.stat().st_size > 1000
    refused = CliRunner().invoke(cli.app, ["evaluate", str(best), "--data", f"synth={synth}"])
    assert refused.exit_code == 1 and "is of a detector" in refused.output


def test_an_ablation_has_a_row_of_what_the_detector_finds(
    synth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    look = Looking.forward

    def counted(self: Looking, *given: torch.Tensor) -> Looked:
        seen.append(self.closer)
        return look(self, *given)

    monkeypatch.setattr(Looking, "forward", counted)
    rice = replace(
        tiny.RECIPE,
        sources=RECIPE.sources,
        validate_on="synth",
        schedule=replace(RECIPE.schedule, steps=2),
    )
    monkeypatch.setitem(RECIPES, "tiny", rice)
    out = tmp_path / "runs"
    command = ["ablate", "tiny", "--data", f"synth={synth}", "--out", str(out),
               "--detector", str(fit(synth, tmp_path / "detector"))]  # fmt: skip
    result = CliRunner().invoke(cli.app, command)
    assert result.exit_code == 0, result.output
    report = (out / "RESULTS.md").read_text()
    assert "| + PFR, closer |" in report and "| + IPD |" in report
    assert "--detector DETECTOR`" in report
    judged = json.loads((out / "ipd-0" / "result.json").read_text())["clips"]
    with progress_bars() as bars:
        data = judged_set(rice, {"synth": synth}, "val", bars)
    assert isinstance(data, QuerySet)
    looks = 3 * (judged + len(data.queries))  # fusion is chosen on val
    assert seen.count(True) == seen.count(False) == looks, "a row of each, three seeds"
    assert (out / "ipd-0" / "best.safetensors").exists()
    assert [path.name for path in (out / "pfr-closer-0").iterdir()] == ["result.json"]


def test_an_export_may_be_surer_of_its_boxes(synth: Path, tmp_path: Path) -> None:
    start, out, best = tmp_path / "rice.safetensors", tmp_path / "bundle", fit(synth, tmp_path)
    save(start, of_model(tiny.RECIPE, build_model(tiny.RECIPE.model)))
    size = tiny.RECIPE.image_size
    frames, kept = np.full((2, 2 * size, 2 * size, 3), 90, np.uint8), load_detector(best)
    _, scores = detection.boxes_in_clip(kept.detector(), [Frame(pixels) for pixels in frames])
    by_itself = scores.amax(dim=1) >= kept.threshold
    sure = "1" if by_itself.all() else "0"
    command = ["export", str(start), "--name", "tiny", "--out", str(out), "--detector", str(best)]
    result = CliRunner().invoke(cli.app, [*command, "--sure", sure])
    assert result.exit_code == 0, result.output
    graph = onnxruntime.InferenceSession(out / "detector.onnx")
    fed = {"frames": frames[None], "frame_mask": np.ones((1, 2), np.bool_)}
    [found] = graph.run(["found"], fed)
    assert found[0].tolist() == (~by_itself).tolist()


def test_clips_of_val_show_int8_the_ranges_of_a_detector(
    synth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Detector] = []

    def exported(*_: object, detector: Detector, **__: object) -> None:
        shown.append(detector)
        raise ExportError("seen enough")

    monkeypatch.setattr(commands, "export_bundle", exported)
    recipe = replace(tiny.RECIPE, sources=RECIPE.sources, validate_on="synth")
    start, best = tmp_path / "rice.safetensors", fit(synth, tmp_path / "detector")
    save(start, of_model(recipe, build_model(recipe.model)))
    command = ["export", start, "--data", f"synth={synth}", "--unseen", synth, "--name", "tiny",
               "--out", tmp_path / "bundle", "--detector", best, "--int8-detector"]  # fmt: skip
    assert CliRunner().invoke(cli.app, [str(part) for part in command]).exit_code == 1
    [detector] = shown
    side = 2 * recipe.image_size
    assert detector.int8 and len(detector.clips) == 2 * commands.RANGED_CLIPS
    assert {clip.shape[1:] for clip in detector.clips} == {(side, side, 3)}
    assert max(len(clip) for clip in detector.clips) > 1
    assert {clip.dtype for clip in detector.clips} == {np.dtype(np.uint8)}


def test_frames_of_another_size_are_looked_at_in_the_detectors() -> None:
    small, large = ([Frame(np.full((side, side, 3), 90, np.uint8))] for side in (32, 64))
    found = [detection.boxes_in_clip(model(), frames) for frames in (small, large)]
    torch.testing.assert_close(found[0], found[1])
