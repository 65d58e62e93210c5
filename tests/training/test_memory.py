"""What a step keeps, counted, against what torch keeps of a small one."""

from __future__ import annotations

import json
import weakref
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from typer.testing import CliRunner

from tests.training.tiny import RECIPE
from training import cli
from training.data.batches import Batch
from training.memory import GB, decoder_parts, encoder_parts, step_parts
from training.models.encoder import Activation, EncoderConfig, ImageEncoder
from training.models.rice import Rice, RiceConfig
from training.objective import rice_losses
from training.recipes import RECIPES

ENCODER = EncoderConfig(
    image_size=48, patch_size=16, width=64, layers=3, heads=4, embedding=32
)  # fmt: skip
CONFIG = RiceConfig(
    encoder=ENCODER, frames=3, matching_heads=8, attention_dropout=0.0, reconstruction=None
)


class Kept:
    """Bytes that autograd keeps of what runs in the block, each storage once."""

    def __init__(self) -> None:
        self._tensors: list[Tensor] = []

    def pack(self, tensor: Tensor) -> Tensor:
        self._tensors.append(tensor)
        return tensor

    def bytes(self) -> int:
        storages = [tensor.untyped_storage() for tensor in self._tensors]
        return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


def kept_by(run: object) -> int:
    assert callable(run)
    kept = Kept()
    with (
        torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor),
        sdpa_kernel([SDPBackend.FLASH_ATTENTION]),  # as a GPU's fused attention
        torch.autocast("cpu", torch.bfloat16),
    ):
        outputs = run()
    assert outputs is not None
    return kept.bytes()


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_the_encoder_keeps_what_is_counted(activation: Activation) -> None:
    config = replace(ENCODER, activation=activation)
    encoder = ImageEncoder(config).train()
    few, many = (kept_by(lambda n=n: encoder(torch.randn(n, 3, 48, 48))) for n in (4, 12))
    counted = sum(part.bytes for part in encoder_parts(config, 8))  # weights are in both
    assert many - few == pytest.approx(counted, rel=0.01)


def test_a_checkpointed_encoder_keeps_its_blocks_inputs() -> None:
    encoder = ImageEncoder(ENCODER).train()
    encoder.checkpointing = True
    inputs: list[weakref.ref[Tensor]] = []
    for block in encoder.blocks:
        block.register_forward_pre_hook(lambda _, given: inputs.append(weakref.ref(given[0])))
    with torch.autocast("cpu", torch.bfloat16):
        outputs = encoder(torch.randn(8, 3, 48, 48))
    alive = [tensor for ref in inputs if (tensor := ref()) is not None]
    [counted] = [
        part
        for part in encoder_parts(ENCODER, 8, checkpointing=True)
        if part.name == "the blocks' inputs"
    ]
    assert sum(tensor.untyped_storage().nbytes() for tensor in alive) == counted.bytes
    assert outputs is not None


def test_a_step_keeps_what_is_counted() -> None:
    recipe = replace(RECIPE, model=CONFIG, reconstruction_weight=0.0)
    model = Rice(CONFIG).train()
    few, many = (kept_by(lambda n=n: rice_losses(model, drawn(n), recipe)) for n in (8, 32))
    parts = {
        clips: [*encoder_parts(ENCODER, 4 * clips), *decoder_parts(CONFIG, clips)]
        for clips in (8, 32)
    }
    counted = {
        clips: sum(part.bytes for part in each if part.name != "clips' tokens, padded")
        for clips, each in parts.items()  # those are kept by the step, not by autograd
    }
    assert many - few == pytest.approx(counted[32] - counted[8], rel=0.03)


def drawn(clips: int) -> Batch:
    row = torch.arange(clips)
    frame_mask = torch.ones(clips, CONFIG.frames, dtype=torch.bool)
    return Batch(
        torch.randn(clips, 3, 48, 48),
        torch.randn(clips, CONFIG.frames, 3, 48, 48),
        frame_mask,
        row,
        torch.stack([torch.zeros_like(row), row], dim=1),
        torch.zeros(clips, CONFIG.frames, 0, 4),
        ~frame_mask,
    )


def test_the_command_tells_its_arithmetic() -> None:
    told = CliRunner().invoke(cli.app, ["memory", "rice_vitb32_lpr4m", "--batch", "256"])
    assert told.exit_code == 0, told.output
    # 256 pictures and 2,560 frames of 50 tokens; 48 x 768 + 16 + 48 bytes a token and block
    assert "blocks: 12 layers x 140,800 tokens x 36,928 bytes" in told.stdout
    as_json = CliRunner().invoke(cli.app, ["memory", "rice_vitb32_lpr4m", "--json"])
    totals = json.loads(as_json.stdout)["gb"]
    assert list(totals) == [
        "at once", "--checkpointing", "--chunk 256", "--chunk 256 --checkpointing",
    ]  # fmt: skip
    for way, total in totals.items():
        assert f"{total:8.2f} GB in all, of 80: " in told.stdout, way
    parts = step_parts(RECIPES["rice_vitb32_lpr4m"], 256, checkpointing=True)
    assert sum(part.bytes for part in parts) / GB == totals["--checkpointing"]
    assert totals["--chunk 256 --checkpointing"] < totals["--checkpointing"] < totals["at once"] / 2


def test_a_conv_stem_is_not_counted() -> None:
    told = CliRunner().invoke(cli.app, ["memory", "grocery_small"])
    assert told.exit_code == 1 and "conv stem" in told.output
