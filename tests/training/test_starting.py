"""Runs that begin with a checkpoint: of their model, of one with fewer parts, of no other."""

from __future__ import annotations

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
    tiny_sgmn,
    tiny_tokenizer,
    titled_photographs,
)
from training import cli, engine
from training.checkpoint import Checkpoint, CheckpointError, load, of_model, save
from training.configs import Recipe
from training.data.batches import BatchDrawer
from training.fit_command import beginning
from training.models.build import build_model
from training.models.locked_encoder import EncoderMemory
from training.models.rice import Rice
from training.models.sgmn.model import as_rice
from training.models.text import Texts
from training.recipes import RECIPES
from training.starting import reduced

CPU = torch.device("cpu")
SEES = replace(RECIPE, model=replace(CONFIG, reconstruction=None), reconstruction_weight=0.0)
READS = replace(
    SEES,
    name="tiny_reads",
    model=as_rice(SGMN_CONFIG),
    schedule=replace(SEES.schedule, text_rate=1e-3),
)
NEW = {"text", "text_guidance", "frame_graph", "instance_graph"}


def start_of(recipe: Recipe, seed: int = 7) -> Checkpoint:
    torch.manual_seed(seed)
    return of_model(recipe, build_model(recipe.model))


def begun(recipe: Recipe, start: Checkpoint) -> Rice:
    model = engine.Run(recipe, Path(), CPU, start).model
    assert isinstance(model, Rice)
    return model


def test_a_model_of_more_parts_begins_with_one_of_fewer() -> None:
    start = start_of(SEES)
    model = begun(SGMN_RECIPE, start)
    kept, own = start.group("model"), model.state_dict()
    assert all(torch.equal(own[name], value) for name, value in kept.items())
    assert {name.partition(".")[0] for name in own.keys() - kept.keys()} == NEW
    first, again = (begun(SGMN_RECIPE, start).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first), "random by the seed"


def test_sgmn_begins_with_the_embeddings_of_the_rice_that_it_begins_with() -> None:
    start = start_of(READS)
    rice, sgmn = (begun(recipe, start).eval() for recipe in (READS, SGMN_RECIPE))
    frames = torch.randn(2, 3, 3, SEES.image_size, SEES.image_size)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    patches = torch.ones(2, 3, SEES.model.encoder.patches, dtype=torch.bool)
    speech = Texts(torch.randint(1, 20, (2, 5)), torch.zeros(2, 5, dtype=torch.bool))  # silence
    with torch.no_grad():
        before, after = (
            model.encode_clips(frames, mask, patches, model.read(speech)).embedding
            for model in (rice, sgmn)
        )
    alike = torch.cosine_similarity(before, after)
    assert alike.min() > 0.99, "frames are normalised before they are summed, and that is all"


def test_a_reading_model_lends_its_text_to_a_further_one() -> None:
    start = start_of(READS)
    model = begun(SGMN_RECIPE, start)
    name = "text.tower.projection.weight"
    assert torch.equal(model.state_dict()[name], start.group("model")[name])


def test_parts_that_a_recipe_lacks_are_left_out_of_what_it_begins_with() -> None:
    start = replace(start_of(SGMN_RECIPE), tokenizer="told")
    for recipe in (SEES, READS, SGMN_RECIPE):
        fewer = reduced(start, recipe)
        kept, model = fewer.group("model"), begun(recipe, fewer)
        assert kept.keys() == model.state_dict().keys()
        assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())
        assert fewer.tokenizer == ("told" if recipe.model.text else None)


def test_a_start_that_learned_from_pictured_talk_lends_to_models_without_guidance() -> None:
    guided = replace(SGMN_RECIPE, talk=4, pictured_talk=True)
    for recipe in (SEES, READS):
        fewer = reduced(start_of(guided), recipe)
        assert not fewer.recipe.pictured_talk
        assert begun(recipe, fewer).state_dict().keys() == fewer.group("model").keys()
    assert reduced(start_of(guided), guided).recipe.pictured_talk


def test_a_run_begins_with_a_file_of_more_parts(tmp_path: Path) -> None:
    """As a bundle's is, which reads, where the recipe is of what sees."""
    start = replace(start_of(READS), tokenizer="told")
    save(tmp_path / "start.safetensors", start)
    recipe, begin = beginning(SEES, tmp_path / "start.safetensors", None, None)
    assert isinstance(begin, Checkpoint) and recipe is SEES
    assert begun(SEES, begin).state_dict().keys() == begin.group("model").keys()


def test_pfr_may_begin_with_a_model_without_it() -> None:
    model = begun(RECIPE, start_of(SEES))
    assert model.reconstruction is not None


@pytest.mark.parametrize(
    ("start", "recipe", "told"),
    [
        (RECIPE, SEES, "differs in reconstruction"),
        (READS, SEES, "differs in text"),
        (SGMN_RECIPE, READS, "only they have text_guidance.+ and others"),
        (SEES, replace(SEES, model=replace(SEES.model, own_direction=True)), "own_direction"),
        (SEES, replace(SEES, model=replace(SEES.model, matching_heads=2)), "matching_heads"),
        (
            READS,
            replace(
                SGMN_RECIPE, model=replace(SGMN_CONFIG, text=replace(SGMN_CONFIG.text, layers=2))
            ),  # type: ignore[type-var]
            "differs in text",
        ),
    ],
    ids=["pfr", "text", "graphs", "direction", "heads", "another tower"],
)
def test_weights_of_another_model_are_refused(start: Recipe, recipe: Recipe, told: str) -> None:
    with pytest.raises(CheckpointError, match=told):
        begun(recipe, start_of(start))


def test_weights_that_lack_something_or_are_of_other_sizes_are_refused() -> None:
    whole = start_of(SEES)
    tensors = dict(whole.tensors)
    del tensors["model.decoder.pool.weight"]
    with pytest.raises(
        CheckpointError, match=r"lack decoder\.pool\.weight, and only they have nothing"
    ):
        begun(SGMN_RECIPE, replace(whole, tensors=tensors))
    tensors["model.decoder.pool.weight"] = torch.zeros(3, 3)
    with pytest.raises(CheckpointError, match="do not fit"):
        begun(SGMN_RECIPE, replace(whole, tensors=tensors))
    half = {name: v for name, v in start_of(READS).tensors.items() if "projection" not in name}
    with pytest.raises(CheckpointError, match="lack "):
        begun(SGMN_RECIPE, replace(start_of(READS), tensors=half))


LOCKED = replace(
    SGMN_RECIPE,
    talk=4,
    cycle=2,
    schedule=replace(SGMN_RECIPE.schedule, encoder_rate=0.0, decoder_rate=0.0),
)


def test_of_a_locked_encoder_nothing_is_kept_for_a_gradient(tmp_path: Path) -> None:
    run = engine.Run(LOCKED, tmp_path, CPU, start_of(SEES))
    pixels = torch.zeros(1, 3, 32, 32)
    assert not any(part.requires_grad for part in run.model.encode(pixels))
    run.task.train_mode(run.model)
    assert not run.model.encoder.training and not run.model.decoder.training


@pytest.mark.parametrize("command", ["fit", "ablate"])
def test_random_weights_are_not_locked(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RECIPES, "locked", LOCKED)
    arguments = [command, "locked", "--data", "made=none", "--out", str(tmp_path / "run")]
    refused = CliRunner().invoke(cli.app, arguments)
    assert refused.exit_code == 1 and "needs the weights of one: --start" in refused.output


def test_a_locked_run_trains_its_further_parts_alone(tmp_path: Path) -> None:
    start, data = start_of(SEES), titled_photographs()
    engine.fit(
        LOCKED, {"made": data}, data, tmp_path,
        device=CPU, start=start, tokenizer=tiny_tokenizer(),
    )  # fmt: skip
    after = load(tmp_path / "last.safetensors").group("training")
    begun_with = start.group("model")
    moved = {name for name, value in begun_with.items() if not torch.equal(after[name], value)}
    assert moved == {"temperature"}


def test_a_locked_encoder_sees_each_batch_of_a_cycle_and_each_val_clip_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    build = engine.Run.__init__

    def watched(run: engine.Run, *args: object, **kwargs: object) -> None:
        build(run, *args, **kwargs)  # type: ignore[arg-type]
        for model in (run.model, run.averaged):
            model.encoder.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))

    monkeypatch.setattr(engine.Run, "__init__", watched)
    data = titled_photographs()
    engine.fit(
        LOCKED, {"made": data}, data, tmp_path,
        device=CPU, start=start_of(SEES, seed=8), tokenizer=tiny_tokenizer(),
    )  # fmt: skip
    shops, clips = 1, 5 * len(data.clips())  # val is filmed five times
    assert len(seen) == LOCKED.cycle + shops + clips, "six steps, two validations of three hearings"


def test_what_is_kept_is_what_the_encoder_gives() -> None:
    plain, kept = tiny_sgmn(), tiny_sgmn()
    engine.task_of(LOCKED).lock(kept)
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 16, dtype=torch.bool)
    for given in (None, mask, mask & (torch.arange(16) < 5), None):
        for own, expected in zip(
            kept.encode(pixels, given), plain.encode(pixels, given), strict=True
        ):
            assert torch.equal(own, expected)
    other = tiny_sgmn(seed=1)
    engine.task_of(LOCKED).lock(other)
    assert not torch.equal(other.encode(pixels)[0], kept.encode(pixels)[0]), "of its weights alone"


def test_a_full_memory_keeps_what_it_has() -> None:
    encoder = tiny_sgmn().encoder
    first, second = torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)
    size = sum(part.numel() * part.element_size() for part in encoder(first))
    memory = EncoderMemory(most_bytes=size)
    seen: list[Tensor] = []
    encoder.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    for pixels in (first, second, first, second):
        memory.encode(encoder, pixels)
    assert [int(pixels.flatten()[0]) for pixels in seen] == [0, 1, 1]


def test_a_cycle_shows_the_same_pictures_and_lets_other_words_be_heard() -> None:
    drawer = BatchDrawer(LOCKED, {"made": titled_photographs()}, CPU, tokenizer=tiny_tokenizer())
    first, second, third = (drawer.draw(step) for step in (0, 1, 2))
    assert torch.equal(first.frames, third.frames) and torch.equal(first.product, third.product)
    assert not torch.equal(first.frames, second.frames)
    assert first.speech is not None and third.speech is not None
    assert first.speech.ids.tolist() != third.speech.ids.tolist()
    assert first.talk is not None and len(first.talk[0].mask) == len(first.talk[1].mask) > 1
    anew = BatchDrawer(LOCKED, {"made": titled_photographs()}, CPU, tokenizer=tiny_tokenizer())
    assert torch.equal(anew.draw(2).frames, third.frames), "a resumed run draws the same"


@pytest.mark.parametrize(
    "wrong",
    [{"cycle": 0}, {"talk": -1}, {"schedule": replace(LOCKED.schedule, encoder_rate=1e-3)}],
    ids=["cycle", "talk", "encoder"],
)
def test_nonsense_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"cycle|talk"):
        replace(LOCKED, **wrong)  # type: ignore[arg-type]


def test_photographs_alone_come_in_cycles() -> None:
    source = replace(LOCKED.sources[0], layout="lpr4m")
    with pytest.raises(ValueError, match="photographs"):
        replace(LOCKED, sources=(source,))
