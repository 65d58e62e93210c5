"""Starting weights: every format that CLIP is published in, and `transformers` as the judge."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from tests.training.released_names import below, openai_block, openai_encoder, randomised
from tests.training.tiny import RECIPE, photographs
from tests.training.tiny_sgmn import SGMN_RECIPE
from training import cli, engine
from training.checkpoint import load
from training.configs import Recipe
from training.data import given
from training.models.commands import begun
from training.models.encoder import Block, EncoderConfig
from training.models.pretrained import begin_with
from training.models.rice import Rice, RiceConfig
from training.models.sgmn.model import SgmnConfig
from training.models.weights_file import WeightsError
from training.recipes import RECIPES

transformers = pytest.importorskip("transformers", reason="the judge of CLIP's numbers")

ENCODER = EncoderConfig(
    image_size=32, patch_size=8, width=64, layers=3, heads=4, embedding=32
)  # fmt: skip
CONFIG = RiceConfig(ENCODER, frames=3, matching_heads=4)
PAPER_STYLE = replace(CONFIG, tokens="projected", self_block_from="text")
TOLERANCE = 1e-4

runner = CliRunner()
Tensors = dict[str, Tensor]


def vision(**changes: Any) -> dict[str, Any]:
    """Hugging Face's settings for ENCODER."""
    return {
        "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3,
        "num_attention_heads": 4, "image_size": 32, "patch_size": 8, **changes,
    }  # fmt: skip


def source_model() -> Rice:
    """Weights that half precision holds exactly, as OpenAI stores them."""
    return randomised(CONFIG).half().float()


def text_block(seed: int = 9) -> Tensors:
    """A block as wide as the embedding, the text tower's."""
    torch.manual_seed(seed)
    return dict(Block(ENCODER.embedding, 2).half().float().state_dict())


def openai_clip(model: Rice, text: str = "transformer.resblocks.") -> Tensors:
    """A whole CLIP under OpenAI's names, its text tower of two blocks below `text`."""
    first, last = text_block(seed=8), text_block()
    return {
        **openai_encoder(below(model.state_dict(), "encoder."), "visual."),
        **openai_block(first, f"{text}0."),
        **openai_block(last, f"{text}1."),
        "token_embedding.weight": torch.zeros(3, ENCODER.embedding),
        "logit_scale": torch.tensor(4.6),
    }


class Tree(nn.Module):
    """A module whose state dict is the given one."""

    def __init__(self, tensors: Tensors) -> None:
        super().__init__()
        for name in {name.split(".")[0] for name in tensors}:
            children = below(tensors, f"{name}.")
            if children:
                self.add_module(name, Tree(children))
            else:
                self.register_buffer(name, tensors[name])

    def forward(self, x: Tensor) -> Tensor:
        return x


def write_torchscript(model: Rice, path: Path) -> Path:
    """As OpenAI: an archive of half-precision weights."""
    halves = {name: value.half() for name, value in openai_clip(model).items()}
    torch.jit.save(torch.jit.trace(Tree(halves), torch.zeros(1)), path / "ViT.pt")
    return path / "ViT.pt"


def write_openclip(model: Rice, path: Path) -> Path:
    """As OpenCLIP's training saves: parallel, beside the optimizer, text tower apart."""
    tensors = openai_clip(model, text="text.transformer.resblocks.")
    wrapped = {f"module.{name}": value for name, value in tensors.items()}
    torch.save({"epoch": 3, "state_dict": wrapped, "optimizer": {}}, path / "epoch_3.pt")
    return path / "epoch_3.pt"


def write_openclip_safetensors(model: Rice, path: Path) -> Path:
    save_file(openai_clip(model), path / "open_clip_model.safetensors")
    return path / "open_clip_model.safetensors"


def write_chinese_clip(model: Rice, path: Path) -> Path:
    """OpenAI's vision tower beside BERT."""
    tensors = openai_encoder(below(model.state_dict(), "encoder."), "visual.")
    tensors["bert.encoder.layer.0.output.dense.weight"] = torch.zeros(2, 2)
    wrapped = {f"module.{name}": value for name, value in tensors.items()}
    torch.save({"epoch": 1, "name": "x", "state_dict": wrapped}, path / "clip_cn.pt")
    return path / "clip_cn.pt"


FORMATS: list[Callable[[Rice, Path], Path]] = [
    write_torchscript, write_openclip, write_openclip_safetensors, write_chinese_clip,
]  # fmt: skip


def assert_same(found: Tensors, expected: Tensors) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("write", FORMATS)
def test_a_round_trip_through_every_format(
    write: Callable[[Rice, Path], Path], tmp_path: Path
) -> None:
    source, model = source_model(), Rice(CONFIG)
    begun = begin_with(model, write(source, tmp_path))
    assert begun == ["encoder", "decoder.self_block", "decoder.cross_block"]
    assert_same(model.encoder.state_dict(), source.encoder.state_dict())


@pytest.mark.parametrize("write", FORMATS)
def test_the_decoder_begins_as_the_last_two_blocks_of_the_vision_tower(
    write: Callable[[Rice, Path], Path], tmp_path: Path
) -> None:
    source, model = source_model(), Rice(CONFIG)
    begin_with(model, write(source, tmp_path))
    encoder = source.encoder.state_dict()
    assert_same(model.decoder.self_block.state_dict(), below(encoder, "blocks.1."))
    assert_same(model.decoder.cross_block.state_dict(), below(encoder, "blocks.2."))


@pytest.mark.parametrize("write", FORMATS[:3])
def test_paper_style_the_self_block_begins_as_the_text_towers_last(
    write: Callable[[Rice, Path], Path], tmp_path: Path
) -> None:
    source, model = source_model(), Rice(PAPER_STYLE)
    cross = {name: value.clone() for name, value in model.decoder.cross_block.state_dict().items()}
    begun = begin_with(model, write(source, tmp_path))
    assert begun == ["encoder", "decoder.self_block"], "no vision block is as wide as the text"
    assert_same(model.decoder.self_block.state_dict(), text_block())
    assert_same(model.decoder.cross_block.state_dict(), cross)


def test_without_a_text_tower_of_clips_kind_nothing_is_begun(tmp_path: Path) -> None:
    model = Rice(PAPER_STYLE)
    before = model.encoder.class_embedding.clone()
    with pytest.raises(WeightsError, match="no text tower"):
        begin_with(model, write_chinese_clip(source_model(), tmp_path))
    assert torch.equal(model.encoder.class_embedding, before)


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_the_encoder_computes_what_transformers_does(activation: str, tmp_path: Path) -> None:
    config = transformers.CLIPVisionConfig(**vision(projection_dim=32, hidden_act=activation))
    judge = randomise(transformers.CLIPVisionModelWithProjection(config))
    judge.save_pretrained(tmp_path)
    model = Rice(replace(CONFIG, encoder=replace(ENCODER, activation=activation))).eval()
    begin_with(model, tmp_path)
    pixels = torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        embedding, tokens = model.encoder(pixels)
        expected = judge(pixels)
    assert (embedding - expected.image_embeds).abs().max() < TOLERANCE
    assert (tokens - expected.last_hidden_state).abs().max() < TOLERANCE
    assert embedding.std() > 0.1, "so that equality says something"


def randomise(judge: Any) -> Any:
    torch.manual_seed(2)
    for parameter in judge.parameters():
        nn.init.normal_(parameter, std=0.2)
    return judge.eval()


def clip_model(folder: Path) -> Any:
    judge = randomise(
        transformers.CLIPModel(
            transformers.CLIPConfig(
                vision_config=vision(),
                text_config={
                    "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2,
                    "num_attention_heads": 2, "vocab_size": 50,
                    "bos_token_id": 1, "eos_token_id": 2,
                },
                projection_dim=32,
            )
        )
    )  # fmt: skip
    judge.save_pretrained(folder)
    return judge


@pytest.mark.parametrize("stored", ["model.safetensors", "pytorch_model.bin"])
def test_a_whole_clip_from_hugging_face(stored: str, tmp_path: Path) -> None:
    judge = clip_model(tmp_path)
    if stored == "pytorch_model.bin":
        torch.save(load_file(tmp_path / "model.safetensors"), tmp_path / stored)
        (tmp_path / "model.safetensors").unlink()
    model, paper_style = Rice(CONFIG).eval(), Rice(PAPER_STYLE).eval()
    begin_with(model, tmp_path)
    begin_with(paper_style, tmp_path)
    pixels, hidden = torch.randn(2, 3, 32, 32), torch.randn(2, 5, 32)
    with torch.inference_mode():
        expected = judge.visual_projection(judge.vision_model(pixels).pooler_output)
        assert torch.allclose(model.encoder(pixels)[0], expected, atol=TOLERANCE)
        layer = judge.text_model.encoder.layers[-1]
        expected = layer(hidden, attention_mask=None)
        expected = expected[0] if isinstance(expected, tuple) else expected
        block = paper_style.decoder.self_block
        block.attention.heads = 2  # the tower's, to compare; the decoder has its own
        assert torch.allclose(block(hidden), expected, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_attention_heads": 2}, "num_attention_heads is 2 there, 4"),
        ({"hidden_act": "gelu"}, "hidden_act is gelu there, quick_gelu"),
        ({"image_size": 64}, "encoder.positions: 65x64 there, 17x64"),
        ({"num_hidden_layers": 4}, "blocks.3.*none in the recipe"),
    ],
)
def test_weights_of_another_encoder_are_refused(
    changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    config = transformers.CLIPVisionConfig(**vision(projection_dim=32, **changes))
    transformers.CLIPVisionModelWithProjection(config).save_pretrained(tmp_path)
    model = Rice(CONFIG)
    before = model.encoder.class_embedding.clone()
    with pytest.raises(WeightsError, match=told):
        begin_with(model, tmp_path)
    assert torch.equal(model.encoder.class_embedding, before)


def test_what_holds_no_clip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="patch stem"):
        begin_with(Rice(replace(CONFIG, encoder=replace(ENCODER, stem="conv"))), tmp_path)
    with pytest.raises(WeightsError, match=r"config\.json"):
        begin_with(Rice(CONFIG), tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 4}))
    with pytest.raises(WeightsError, match="neither model"):
        begin_with(Rice(CONFIG), tmp_path)
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "resnet.pt")
    with pytest.raises(WeightsError, match="no vision transformer"):
        begin_with(Rice(CONFIG), tmp_path / "resnet.pt")


class Trap(nn.Module):
    """Scripted, it runs code of its own when the archive is loaded."""

    @torch.jit.export
    def __getstate__(self) -> tuple[int, bool]:
        return 1, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[int, bool]) -> None:
        self.training = state[1]

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_a_torchscript_archive_that_runs_on_loading_is_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(Trap()), tmp_path / "trap.pt")
    with pytest.raises(WeightsError, match="runs code"):
        begin_with(Rice(CONFIG), tmp_path / "trap.pt")


def run(*arguments: object) -> tuple[int, str]:
    result = runner.invoke(cli.app, [str(argument) for argument in arguments])
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result.exit_code, re.sub(r"\s+", " ", result.output)


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The tiny recipe on the tiny CLIP."""
    recipe = replace(RECIPE, model=CONFIG)
    monkeypatch.setitem(RECIPES, "tiny", recipe)
    return recipe


def test_init_writes_the_model_that_a_run_would_begin_with(recipe: Recipe, tmp_path: Path) -> None:
    out = tmp_path / "new" / "x.safetensors"
    assert run("init", "tiny", "--out", out)[0] == 0
    kept = load(out)
    assert kept.recipe == recipe
    begun = engine.Run(recipe, tmp_path, torch.device("cpu")).model.state_dict()
    assert all(torch.equal(kept.group("model")[name], value) for name, value in begun.items())
    engine.Run(recipe, tmp_path, torch.device("cpu"), start=kept)


def test_init_begins_with_clip_and_says_what_is_random(recipe: Recipe, tmp_path: Path) -> None:
    source = source_model()
    out = tmp_path / "x.safetensors"
    path = write_openclip(source, tmp_path)
    code, told = run("init", "tiny", "--out", out, "--encoder", path)
    assert code == 0
    assert "encoder, decoder.self_block, decoder.cross_block; the rest is random" in told
    assert_same(load(out).model().encoder.state_dict(), source.encoder.state_dict())


def test_sgmn_begins_with_the_embeddings_of_clip(tmp_path: Path) -> None:
    source = source_model()
    config = SgmnConfig(ENCODER, frames=3, matching_heads=4, text_guidance=False)
    model = begun(replace(SGMN_RECIPE, model=config), write_openclip(source, tmp_path)).model()
    frames = torch.randn(2, 3, 3, 32, 32)
    mask, patches = torch.ones(2, 3, dtype=torch.bool), torch.ones(2, 3, 16, dtype=torch.bool)
    with torch.no_grad():
        clips = [each.encode_clips(frames, mask, patches) for each in (source.eval(), model)]
    alike = torch.cosine_similarity(clips[0].embedding, clips[1].embedding)
    assert alike.min() > 0.99


def test_fit_begins_with_clip(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, seen = source_model(), []

    def fit(recipe: Recipe, *args: Any, start: Any, **rest: Any) -> Path:
        seen.append(start.model().encoder.state_dict())
        return tmp_path

    monkeypatch.setattr(engine, "fit", fit)
    for opened in ("open_training", "open_judging"):
        monkeypatch.setattr(given, opened, lambda *args, **options: photographs())
    path = write_openclip(source, tmp_path)
    arguments = ["fit", "tiny", "--data", "made=x", "--out", tmp_path / "run", "--encoder", path]
    code, told = run(*arguments)
    assert code == 0, told
    assert_same(seen[0], source.encoder.state_dict())
    code, told = run(*arguments, "--start", tmp_path / "y.safetensors")
    assert code == 1 and "one of --start and --encoder" in told
    code, told = run(*arguments[:-1], tmp_path / "gone.pt")
    assert code == 1 and "No such file" in told
