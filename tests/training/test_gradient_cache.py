"""Saving memory changes no number: chunks with cached gradients, and checkpointed blocks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.training.tiny import RECIPE, photographs
from training import engine
from training.configs import Compute, Precision, Recipe
from training.data.batches import BatchDrawer
from training.gradient_cache import in_chunks

CPU = torch.device("cpu")
PATCHES = replace(RECIPE.model, encoder=replace(RECIPE.model.encoder, stem="patch"))
DROPS = replace(RECIPE, model=PATCHES)  # paths and attention weights
EXACT = replace(
    RECIPE,
    model=replace(PATCHES, encoder=replace(PATCHES.encoder, drop_path=0.0), attention_dropout=0.0),
)


def gradients(recipe: Recipe, compute: Compute, out: Path) -> dict[str, Tensor]:
    run = engine.Run(recipe, out, CPU, compute=compute)
    run.backward(0, BatchDrawer(recipe, {"made": photographs()}, CPU).draw(0))
    return {name: p.grad for name, p in run.model.named_parameters() if p.grad is not None}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(found[name], gradient, atol=1e-4), name


@pytest.mark.parametrize("chunk", [1, 5, 1000])
def test_chunks_give_the_gradients_of_the_whole_batch(chunk: int, tmp_path: Path) -> None:
    whole = gradients(EXACT, Compute("fp32"), tmp_path)
    assert_same(gradients(EXACT, Compute("fp32", chunk=chunk), tmp_path), whole)
    assert whole["encoder.positions"].abs().max() > 0.01


@pytest.mark.parametrize("recipe", [RECIPE, DROPS], ids=["conv stem", "patch stem"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_checkpointing_gives_the_same_gradients(
    recipe: Recipe, precision: Precision, tmp_path: Path
) -> None:
    """What is dropped is dropped again."""
    plain = gradients(recipe, Compute(precision), tmp_path)
    assert_same(gradients(recipe, Compute(precision, checkpointing=True), tmp_path), plain)


def test_a_chunk_is_encoded_again_as_it_was_and_when_its_turn_comes() -> None:
    """Dropout draws the same numbers twice, and one chunk's graph is there at a time."""
    weight = torch.ones((), requires_grad=True)
    done: list[str] = []

    def encode(pixels: Tensor, patch_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        done.append(f"encode {int(pixels[0, 0])}")
        dropped = torch.nn.functional.dropout(weight * pixels)
        return dropped, dropped.sin()

    pixels = torch.arange(1.0, 7)[:, None].expand(6, 50)
    torch.manual_seed(0)
    embedding, tokens = in_chunks(encode, 2)(pixels, None)
    embedding.register_hook(lambda _: done.append("loss"))
    torch.rand(3)  # the losses draw too
    (embedding.sum() + tokens.sum()).backward()
    assert weight.grad is not None
    expected = (embedding + embedding * embedding.cos()).sum()  # by the product rule, weight is 1
    assert weight.grad.item() == pytest.approx(expected.item(), rel=1e-5)
    assert done == ["encode 1", "encode 3", "encode 5", "loss", "encode 5", "encode 3", "encode 1"]


def test_a_batch_that_is_normalised_as_a_whole_is_not_chunked(tmp_path: Path) -> None:
    with pytest.raises(engine.RunError, match="tiny cannot be encoded in chunks: the conv stem"):
        engine.Run(RECIPE, tmp_path, CPU, compute=Compute(chunk=4))
    frozen = replace(RECIPE, schedule=replace(RECIPE.schedule, encoder_rate=0.0))
    engine.Run(frozen, tmp_path, CPU, compute=Compute(chunk=4))
    with pytest.raises(ValueError, match="chunk must be positive"):
        Compute(chunk=0)
