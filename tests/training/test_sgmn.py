"""SGMN whole: what speech changes, what is minimised, and that a run of it resumes exactly."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from tests.training.tiny import CONFIG, RECIPE
from tests.training.tiny_sgmn import (
    SGMN_CONFIG,
    SGMN_RECIPE,
    sgmn_batch,
    tiny_sgmn,
    tiny_tokenizer,
    titled_photographs,
)
from training import cli, engine, objective
from training.checkpoint import load
from training.configs import Recipe, SgmnLosses, recipe_from_dict
from training.data.batches import Batch, BatchDrawer
from training.export.commands import unmeasured
from training.losses import text_loss
from training.models.build import build_model
from training.models.encoder import EncoderConfig
from training.models.rice import Clips, Rice
from training.models.sgmn.model import Sgmn, SgmnConfig
from training.models.text import Texts
from training.recipes import RECIPES

CPU = torch.device("cpu")


def clips_of(model: Sgmn, batch: Batch, speech: Texts | None) -> Clips:
    with torch.inference_mode():
        return model.encode_together(
            batch.pictures, batch.frames, batch.frame_mask, speech=model.read(speech)
        )[1]


def test_speech_changes_the_clip_it_is_of_and_silence_none() -> None:
    model, batch = tiny_sgmn(), sgmn_batch()
    assert batch.speech is not None
    there = batch.speech.mask.any(dim=1) & (batch.frame_mask.sum(dim=1) > 1)  # to choose among
    assert there.any()
    silent = Texts(batch.speech.ids, torch.zeros_like(batch.speech.mask))
    heard, unheard = (clips_of(model, batch, said).embedding for said in (batch.speech, silent))
    changed = (heard - unheard).abs().amax(dim=1)
    assert ((changed > 1e-5) == there).all()
    assert torch.allclose(unheard, clips_of(model, batch, None).embedding, atol=1e-5)


def test_frames_and_clips_are_encoded_alike_in_training_and_at_test() -> None:
    model, batch = tiny_sgmn(), sgmn_batch()
    together = clips_of(model, batch, batch.speech)
    with torch.inference_mode():
        every = batch.frame_mask.new_ones(*batch.frame_mask.shape, CONFIG.encoder.patches)
        speech = model.read(batch.speech)
        alone = model.encode_clips(batch.frames, batch.frame_mask, every, speech)
    assert torch.allclose(together.embedding, alone.embedding, atol=1e-5)


@pytest.mark.parametrize("part", ["text_guidance", "frame_graph", "instance_graph"])
def test_each_part_can_be_left_out(part: str) -> None:
    model = tiny_sgmn(replace(SGMN_CONFIG, **{part: False}))
    assert getattr(model, part) is None
    losses = objective.sgmn_losses(model, sgmn_batch(), SGMN_RECIPE)
    graph = {"graph", "relation"} if part != "instance_graph" else set()
    guidance = {"guidance"} if part != "text_guidance" else set()
    presence = {"presence"} if part != "frame_graph" else set()
    assert losses.keys() == {"triplet", "icl", "text", "pmd"} | graph | guidance | presence
    assert all(loss.isfinite() for loss in losses.values())


def test_without_graph_and_guidance_clips_are_those_of_rice() -> None:
    bare = replace(SGMN_CONFIG, text_guidance=False, frame_graph=False, instance_graph=False)
    model, batch = tiny_sgmn(bare), sgmn_batch()
    rice = Rice(replace(CONFIG, reconstruction=None, text=SGMN_CONFIG.text)).eval()
    rice.load_state_dict(model.state_dict())
    found = clips_of(model, batch, batch.speech)
    with torch.inference_mode():
        _, expected = rice.encode_together(
            batch.pictures, batch.frames, batch.frame_mask, speech=rice.read(batch.speech)
        )
    assert found.shown is expected.shown is None
    assert all(torch.equal(*pair) for pair in zip(found[:3], expected[:3], strict=True))


def test_every_part_learns() -> None:
    """A gradient reaches every parameter but keys' biases, which a softmax does not see."""
    model, batch = tiny_sgmn().train(), sgmn_batch()
    clips, _, *picture = batch.frames.shape
    batch = replace(
        batch,
        frames=torch.randn(clips, 3, *picture),  # two changes, so that one can attend to the other
        frame_mask=torch.ones(clips, 3, dtype=torch.bool),
        boxes=torch.zeros(clips, 3, 1, 4),
        annotated=torch.ones(clips, 3, dtype=torch.bool),
    )
    losses = objective.sgmn_losses(model, batch, SGMN_RECIPE)
    objective.total_loss(losses, SGMN_RECIPE).backward()
    still = {
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().max() > 0
    }
    assert {name for name in still if not name.endswith("key.bias")} == set()


def test_the_weights_are_the_recipe_s() -> None:
    names = ["triplet", "graph", "relation", "guidance", "presence", "icl", "text", "pmd"]
    losses = {name: torch.tensor(float(10**place)) for place, name in enumerate(names)}
    recipe = replace(
        SGMN_RECIPE, sgmn=SgmnLosses(2, 3, 4, 5, 6, 7), text_weight=8.0, matching_weight=9.0
    )
    assert objective.total_loss(losses, recipe).item() == 98765432


def test_speech_against_titles_is_contrasted_in_both_directions() -> None:
    """The released code uses one direction twice."""
    similarity, product = torch.tensor([[1.0, 0.0], [0.9, 0.8]]), torch.arange(2)
    every, scale = torch.ones(2, dtype=torch.bool), torch.tensor(4.0)
    both = text_loss(similarity, product, every, every, scale)
    logits = 16 * similarity

    def one(of: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(of, product)

    assert one(logits) != one(logits.T)
    assert both.item() == pytest.approx((one(logits) + one(logits.T)).item() / 2)


def test_guidance_learns_from_talk_with_pictures_too() -> None:
    recipe = replace(SGMN_RECIPE, talk=6, pictured_talk=True)
    drawer = BatchDrawer(recipe, {"made": titled_photographs()}, CPU, tokenizer=tiny_tokenizer())
    batch, again = drawer.draw(0), drawer.draw(0)
    assert batch.talk is not None and batch.talk_pictures is not None
    assert again.talk_pictures is not None and torch.equal(again.talk_pictures, batch.talk_pictures)
    size = CONFIG.encoder.image_size
    assert batch.talk_pictures.shape[1:] == (3, size, size)
    assert 1 < len(batch.talk_pictures) < len(batch.talk[0].mask), "the sources' talk has none"
    torch.manual_seed(0)
    model = Sgmn(SGMN_CONFIG).train()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    told = []
    for _ in range(30):
        loss = objective.sgmn_losses(model, batch, recipe)["guidance"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        told.append(loss.item())
    assert told[-1] < 0.5 * told[0]
    without = objective.sgmn_losses(model, replace(batch, talk_pictures=None), recipe)
    assert without["guidance"] < told[0] / 2, "frames with titles, pictures with speech"


def test_pictured_talk_needs_talk_and_a_model_with_guidance() -> None:
    bare = replace(SGMN_CONFIG, text_guidance=False)
    for wrong in ({"talk": 0}, {"talk": 4, "model": bare}):
        with pytest.raises(ValueError, match="pictured_talk"):
            replace(SGMN_RECIPE, pictured_talk=True, **wrong)  # type: ignore[arg-type]


def test_negatives_are_mined_by_both_modalities(monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = tiny_sgmn(), sgmn_batch()
    chosen: list[Tensor] = []
    original = objective.pmd_loss

    def spy(logits: Tensor, score: Tensor, *rest: object) -> Tensor:
        chosen.append(score)
        return original(logits, score, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(objective, "pmd_loss", spy)
    with torch.no_grad():
        of = objective.encoded(model, batch)
        objective.sgmn_losses(model, batch, SGMN_RECIPE)
        objective.sgmn_losses(model, batch, replace(SGMN_RECIPE, mining_text=0.0))
    assert of.text is not None and of.text.abs().max() > 0
    both, sight = chosen
    assert torch.allclose(sight, of.visual, atol=1e-5)
    assert torch.allclose(both, of.visual + 0.5 * of.text, atol=1e-5)


def run_of(recipe: Recipe, out: Path, stop_after: int | None = None) -> list[float]:
    seen: list[float] = []

    class KilledError(Exception):
        pass

    def watch(progress: engine.Progress) -> None:
        seen.append(sum(progress.losses.values()))
        if progress.step == stop_after:
            raise KilledError

    data = titled_photographs()
    with contextlib.suppress(KilledError):
        engine.fit(
            recipe, {"made": data}, data, out,
            device=CPU, watch=watch, tokenizer=tiny_tokenizer(),
        )  # fmt: skip
    return seen


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole = run_of(SGMN_RECIPE, tmp_path / "whole")
    killed = run_of(SGMN_RECIPE, tmp_path / "killed", stop_after=4)
    assert killed == whole[:4]
    assert run_of(SGMN_RECIPE, tmp_path / "killed") == whole[3:]
    for name in ("last.safetensors", "best.safetensors"):
        expected, got = load(tmp_path / "whole" / name), load(tmp_path / "killed" / name)
        assert got.state == expected.state
        assert all(torch.equal(got.tensors[k], v) for k, v in expected.tensors.items())
    kept = load(tmp_path / "whole" / "best.safetensors")
    assert kept.recipe == SGMN_RECIPE
    assert isinstance(kept.model(), Sgmn)


def test_a_run_learns(tmp_path: Path) -> None:
    schedule = replace(SGMN_RECIPE.schedule, steps=40, evaluate_every=40)
    seen = run_of(replace(SGMN_RECIPE, schedule=schedule), tmp_path)
    assert sum(seen[-5:]) < 0.8 * sum(seen[:5])


def test_a_config_says_which_model_it_is() -> None:
    for recipe, kind in ((SGMN_RECIPE, Sgmn), (RECIPE, Rice)):
        again = recipe_from_dict(recipe.to_dict())
        assert again == recipe
        assert type(build_model(again.model)) is kind
        assert kind.family == kind.__name__.lower()


@pytest.mark.parametrize("data", ["lpr4m", "movingfashion"])
def test_the_published_recipes_are_the_paper_s(data: str) -> None:
    recipe = RECIPES[f"sgmn_vitb32_{data}"]
    model = recipe.model
    assert isinstance(model, SgmnConfig) and model.encoder == EncoderConfig()
    assert recipe.sgmn == SgmnLosses(triplet=1, graph=1, relation=10, guidance=1, presence=1, icl=0)
    assert (recipe.hard_negatives, recipe.contest, recipe.matching_weight) == (3, "clips", 1)
    assert model.frame_graph and (model.frame_heads, model.instance_heads) == (8, 16)
    reads = data == "lpr4m"
    assert model.text_guidance == (model.text is not None) == reads
    assert recipe.mining_text == (0.5 if reads else 0.0)
    with torch.device("meta"):
        built = build_model(model)
    assert isinstance(built, Sgmn)
    frozen = recipe.schedule.text_rate == 0
    assert frozen, "the text tower is pre-trained and stays as it is"


def test_a_recipe_that_reads_with_a_pretrained_tower_asks_for_it(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        cli.app,
        ["fit", "sgmn_vitb32_lpr4m", "--data", f"lpr4m={tmp_path}", "--out", str(tmp_path / "run")],
    )
    assert result.exit_code == 1
    assert "--text FOLDER" in result.output


def test_exported_without_data_it_ranks_as_in_the_paper() -> None:
    fusion = unmeasured(tiny_sgmn())["fusion"]
    assert (fusion["coarse"], fusion["match"]) == (1.0, 0.0)
    assert 0 < fusion["text"]["weight"] < 1 and fusion["text"]["scale"] > 0


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda: replace(SGMN_RECIPE, sgmn=None), "sgmn"),
        (lambda: replace(RECIPE, sgmn=SgmnLosses()), "sgmn"),
        (lambda: SgmnLosses(graph=-1.0), "graph is not negative"),
        (lambda: replace(SGMN_RECIPE, mining_text=-0.5), "mining_text"),
        (lambda: replace(SGMN_CONFIG, text=None), "text_guidance needs a text tower"),
        (lambda: replace(SGMN_CONFIG, reconstruction="softmax"), "reconstruction"),
        (lambda: replace(SGMN_CONFIG, instance_heads=5), "instance_heads"),
    ],
    ids=["no weights", "not an sgmn", "weight", "mining", "no text", "pfr", "heads"],
)
def test_nonsense_is_refused(wrong: Callable[[], Recipe | SgmnConfig], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        wrong()
