"""The frame graph that learns of found frames: what a locked model sees of clips, and that nothing
but the graph learns of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tests.training.test_detector import CLIP_CONFIG
from tests.training.test_detector import RECIPE as DETECTOR_RECIPE
from tests.training.tiny import photographs
from tests.training.tiny_sgmn import SGMN_CONFIG, SGMN_RECIPE
from training import cli, engine
from training.checkpoint import DetectorCheckpoint, load, of_detector, of_model, save
from training.configs import Compute, Recipe, SgmnLosses, Source
from training.data.clip_index import evenly
from training.data.clip_sets import Choose
from training.data.errors import DataError
from training.data.frames import Frame, box_tensors
from training.data.opening import open_judging, open_training
from training.data.photographs import PhotographSet
from training.data.sets import TrainingSet
from training.data.synthetic.writer import Synth, write_synth
from training.data.transforms import normalise
from training.distributed import Share
from training.engine import RunError
from training.evaluation.detection import iou
from training.evaluation.scorers import TorchScorer
from training.found_frames.looks import MET, LookDrawer, Looks, look_at
from training.found_frames.objective import FrameObjective
from training.losses import icl_loss
from training.models.build import build_model
from training.models.detector import ClipDetector
from training.models.sgmn.frame_graph import weights
from training.models.sgmn.model import Sgmn
from training.recipes import RECIPES
from training.starting import reduced

CPU = torch.device("cpu")
RECIPE = replace(
    SGMN_RECIPE,
    name="tiny_found",
    model=replace(
        SGMN_CONFIG, text=None, text_guidance=False, instance_graph=False, frame_width=16,
        detected=True,
    ),
    sources=(Source("synth", "lpr4m", products=8, frames=3),),
    validate_on="synth",
    schedule=replace(
        SGMN_RECIPE.schedule, steps=40, evaluate_every=40, encoder_rate=0.0, text_rate=0.0,
        matching_rate=3e-3,
    ),
    mining_text=0.0,
    sgmn=SgmnLosses(icl=0.5),
)  # fmt: skip
SIDE = 2 * RECIPE.image_size


@pytest.fixture(scope="module")
def synth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synth")
    write_synth(out, Synth(clips=90, seed=1, size=64, frames=3, shop_size=6))
    return out


@pytest.fixture(scope="module")
def data(synth: Path) -> dict[str, TrainingSet]:
    return {"synth": open_training(RECIPE.sources[0], synth, SIDE, lambda paths: paths)}


def tiny_model() -> Sgmn:
    torch.manual_seed(0)
    model = build_model(RECIPE.model)
    assert isinstance(model, Sgmn)
    return model.eval()


def detector(threshold: float = 0.0) -> DetectorCheckpoint:
    """Random, with boxes that differ."""
    torch.manual_seed(0)
    model = ClipDetector(CLIP_CONFIG).eval()
    for name, parameter in model.named_parameters():
        if "box.4.weight" in name:
            torch.nn.init.normal_(parameter, 0.0, 0.05)
        elif "score.weight" in name:
            torch.nn.init.normal_(parameter, 0.0, 0.3)
    return of_detector(replace(DETECTOR_RECIPE, model=CLIP_CONFIG), model, threshold)


def looks(data: dict[str, TrainingSet], threshold: float = 0.0) -> Looks:
    looking = detector(threshold).looking_for(RECIPE)
    return look_at(tiny_model(), looking, data, lambda items, told: items)


def test_looks_are_what_the_model_sees_of_the_frames_that_are_found(
    data: dict[str, TrainingSet],
) -> None:
    clips, model = data["synth"], tiny_model()
    assert not isinstance(clips, PhotographSet)
    scores = torch.cat([look.scores for look in looks(data).clips])
    threshold = float(scores.median())
    looking, seen = detector(threshold).looking_for(RECIPE), looks(data, threshold)
    place, left_out = 0, 0
    for clip in range(len(clips)):
        frames = clips.frames(clip, lambda count: evenly(count, 3))
        pixels = torch.stack([torch.from_numpy(frame.pixels) for frame in frames])[None]
        with torch.inference_mode():
            looked = looking(pixels, torch.ones(1, len(frames), dtype=torch.bool))
            found = looked.found[0]
            if not found.any():
                left_out += 1
                continue
            embedding, tokens = model.encode(normalise(looked.pixels[0][found]))
        look = seen.clips[place]
        assert torch.allclose(look.embedding, embedding, atol=1e-5)
        assert torch.allclose(look.most, tokens[:, 1:].amax(dim=1), atol=1e-5)
        assert torch.allclose(look.scores, looked.scores[0][found])
        boxes, _ = box_tensors(frames)
        shown = (iou(looked.boxes[0][:, None], boxes) >= MET).any(dim=1)[found]
        assert torch.equal(look.shown, shown)
        picture = seen.pictures[seen.product[place]]
        own = torch.from_numpy(clips.picture(clip))[None]
        with torch.inference_mode():
            small = torch.nn.functional.interpolate(
                own.movedim(-1, 1).float(), RECIPE.image_size, mode="bicubic", antialias=True
            ).movedim(1, -1)
            expected = model.encode_pictures(normalise(small.round().clamp(0, 255).byte()))
        assert torch.allclose(picture, expected.embedding[0], atol=1e-4)
        place += 1
    assert place == len(seen.clips) > 0 and left_out > 0, "the test has both kinds"
    assert len(seen.pictures) == len(seen.product.unique())


def test_a_clip_that_cannot_be_read_is_left_out(
    data: dict[str, TrainingSet], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips, whole = data["synth"], looks(data)
    assert not isinstance(clips, PhotographSet)
    frames, picture, lost = clips.frames, clips.picture, int(clips.product[0])

    def broken(clip: int, choose: Choose) -> list[Frame]:
        if clip == 1:
            raise DataError("the frame is broken")
        return frames(clip, choose)

    def missing(clip: int) -> np.ndarray:
        if clips.product[clip] == lost:
            raise DataError("the picture is missing")
        return picture(clip)

    monkeypatch.setattr(clips, "frames", broken)
    monkeypatch.setattr(clips, "picture", missing)
    gone = int((clips.product == lost).sum()) + int(clips.product[1] != lost)
    assert len(looks(data).clips) == len(whole.clips) - gone
    assert "the frame is broken" in caplog.text and "the picture is missing" in caplog.text


def test_a_batch_depends_on_the_step_alone(data: dict[str, TrainingSet]) -> None:
    seen = looks(data)

    def drawn(step: int, share: Share) -> torch.Tensor:
        [batch] = LookDrawer(seen, 8, 3, 0, share).batches(range(step, step + 1))
        assert batch.mask.any(dim=1).all()
        assert not batch.embedding[~batch.mask].any()
        own = seen.pictures[:, None].isclose(batch.pictures).all(dim=-1)
        assert (own.sum(dim=0) == 1).all() and len(batch.pictures) <= len(batch.product)
        return batch.embedding

    whole = drawn(3, Share())
    assert torch.equal(whole, drawn(3, Share())) and not torch.equal(whole, drawn(4, Share()))
    first, second = (drawn(3, Share(rank, 2)) for rank in range(2))
    assert len(first) == len(second) == 4 and not torch.equal(first, second)


def test_the_losses_are_of_presence_and_of_what_the_service_compares(
    data: dict[str, TrainingSet],
) -> None:
    model, seen = tiny_model(), looks(data)
    [batch] = LookDrawer(seen, 8, 3, 0, Share()).batches(range(1))
    assert model.frame_graph is not None
    losses = FrameObjective(model)(batch)
    graph_inputs = (batch.embedding, batch.most, torch.zeros_like(batch.scores), batch.scores)
    logits = model.frame_graph(*graph_inputs, batch.mask)
    likely = torch.sigmoid(logits)
    right = torch.where(batch.shown, likely, 1 - likely)[batch.mask]
    assert torch.isclose(losses["presence"], -right.log().mean(), atol=1e-5)
    shares = weights(logits, batch.mask)
    clips = (batch.embedding * shares[..., None]).sum(dim=1)
    cosines = torch.nn.functional.cosine_similarity(clips[:, None], batch.pictures, dim=-1)
    assert torch.isclose(losses["icl"], icl_loss(cosines, batch.product, model.temperature))


def fit(out: Path, synth: Path, recipe: Recipe = RECIPE, **options: object) -> Path:
    data = {"synth": open_training(recipe.sources[0], synth, SIDE, lambda paths: paths)}
    val = open_judging("lpr4m", synth, "val", SIDE, lambda paths: paths)
    told: list[dict[str, float]] = options.pop("told", [])  # type: ignore[assignment]
    options = {"watch": lambda progress: told.append(progress.losses)} | options
    return engine.fit(
        recipe, data, val, out, device=CPU, compute=Compute("fp32"),
        start=of_model(RECIPE, tiny_model()),
        **options,  # type: ignore[arg-type]
    )  # fmt: skip


def test_a_run_trains_the_graph_and_nothing_else(synth: Path, tmp_path: Path) -> None:
    told: list[dict[str, float]] = []
    best = fit(tmp_path / "run", synth, detector=detector(), told=told)
    before, after = tiny_model().state_dict(), load(best).model().state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(name.startswith("frame_graph.") for name in moved)
    first, last = (
        sum(losses["presence"] for losses in told[part]) for part in (slice(8), slice(-8, None))
    )
    assert last < first


def test_a_killed_run_goes_on_as_if_nothing_had_been(synth: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, schedule=replace(RECIPE.schedule, steps=6, evaluate_every=2))
    whole = fit(tmp_path / "whole", synth, recipe, detector=detector())

    def killed(progress: engine.Progress) -> None:
        if progress.step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "killed", synth, recipe, detector=detector(), watch=killed)
    resumed = fit(tmp_path / "killed", synth, recipe, detector=detector())
    one, other = (load(best.parent / "last.safetensors") for best in (whole, resumed))
    for name, tensor in one.tensors.items():
        assert torch.equal(tensor, other.tensors[name]), name


def test_a_run_needs_a_detector_and_no_other_does(synth: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="tiny_found learns of frames that a detector finds"):
        fit(tmp_path / "run", synth)
    other = replace(RECIPE, name="other", model=replace(RECIPE.model, detected=False))
    with pytest.raises(RunError, match="other is not trained beside a detector"):
        fit(tmp_path / "run", synth, other, detector=detector())


def test_photographs_have_nothing_to_tell(data: dict[str, TrainingSet]) -> None:
    both, alone = looks({"made": photographs(), **data}), looks(data)
    assert len(both.clips) == len(alone.clips)
    with pytest.raises(DataError, match="no clip of made in which the detector finds anything"):
        looks({"made": photographs()})


def test_clips_in_which_nothing_is_found_teach_nothing(data: dict[str, TrainingSet]) -> None:
    with pytest.raises(DataError, match="no clip of synth in which the detector finds anything"):
        looks(data, threshold=1.0)


def test_commands_ask_for_a_detector_before_they_read(synth: Path, tmp_path: Path) -> None:
    shipped = RECIPES["sgmn_live_small"]
    assert shipped.of_found_frames
    start = tmp_path / "start.safetensors"
    save(start, of_model(shipped, build_model(shipped.model)))
    data = ["--data", f"grocery={synth}", "--data", f"synth={synth}"]
    for command in ("fit", "ablate", "bench"):
        out = [] if command == "bench" else ["--start", str(start), "--out", str(tmp_path / "run")]
        result = CliRunner().invoke(cli.app, [command, shipped.name, *data, *out])
        assert result.exit_code == 1 and "its run needs one" in result.output, command
    assert not (tmp_path / "run").exists()


def test_a_frame_graph_of_another_kind_begins_anew(tmp_path: Path) -> None:
    start = of_model(RECIPE, tiny_model())
    other = replace(
        RECIPE, name="other", model=replace(RECIPE.model, frame_width=None, detected=False)
    )
    model = engine.Run(other, tmp_path, CPU, reduced(start, other)).model
    assert not model.frame_graph.show.weight.any(), "and is silent"
    for name, weight in start.group("model").items():
        if not name.startswith("frame_graph."):
            assert torch.equal(model.state_dict()[name], weight), name


def test_where_nothing_is_looked_for_a_clip_is_as_without_the_graph() -> None:
    model, plain = tiny_model(), tiny_model()
    plain.frame_graph = None
    generator = torch.Generator().manual_seed(0)
    size = RECIPE.image_size
    frames, pictures = (
        torch.randint(0, 256, (count, size, size, 3), generator=generator, dtype=torch.uint8)
        for count in (3, 4)
    )
    with torch.inference_mode():
        one, other = (
            scorer.compare(scorer.products(pictures), frames)[0]
            for scorer in (TorchScorer(model), TorchScorer(plain))
        )
    assert torch.allclose(one.coarse, other.coarse, atol=1e-6)
    assert torch.allclose(one.match, other.match, atol=1e-5)
