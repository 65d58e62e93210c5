"""PFR against its definition, head by head, and without the released code's mistake."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from tests.training.tiny import CONFIG, RECIPE, photographs, tiny_model
from training import objective
from training.data.batches import BatchDrawer
from training.models.patch_reconstruction import PatchReconstruction, Reconstruction
from training.models.rice import Rice

HEADS, WIDTH, TOKENS, FRAMES = 4, 16, 5, 3


def pair() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Attention maps, clip tokens, and a mask whose last frame is padded."""
    generator = torch.Generator().manual_seed(0)
    length = FRAMES * TOKENS
    mask = torch.arange(length) < 2 * TOKENS
    scores = torch.randn(1, HEADS, TOKENS, length, generator=generator)
    attention = scores.masked_fill(~mask, -torch.inf).softmax(dim=-1)
    return attention, torch.randn(1, length, WIDTH, generator=generator), mask[None]


def seeded(variant: Reconstruction) -> PatchReconstruction:
    """Other weights than 1 and 0, so that an error in their use shows."""
    module = PatchReconstruction(WIDTH, HEADS, variant)
    torch.manual_seed(1)
    for parameter in module.parameters():
        torch.nn.init.uniform_(parameter, -0.5, 1.0)
    return module


def by_hand(module: PatchReconstruction, attention: torch.Tensor) -> torch.Tensor:
    """The weights before softmax, [T,L]: two linear maps over the heads, each with a ReLU."""
    first, _, second, _ = module.combine
    assert isinstance(first, torch.nn.Conv2d) and isinstance(second, torch.nn.Conv2d)
    assert first.bias is not None and second.bias is not None
    returned = 2.0 * attention[0]  # as the released code returns it: times sqrt(16 / 4)
    hidden = F.relu(torch.einsum("ch,htl->ctl", first.weight[:, :, 0, 0], returned).add(
        first.bias[:, None, None]
    ))  # fmt: skip
    return F.relu(torch.einsum("c,ctl->tl", second.weight[0, :, 0, 0], hidden) + second.bias)


def test_it_starts_with_ones_and_zeros() -> None:
    module = PatchReconstruction(768, 8, "softmax")
    shapes = {name: tuple(value.shape) for name, value in module.combine.state_dict().items()}
    assert shapes == {
        "0.weight": (4, 8, 1, 1), "0.bias": (4,), "2.weight": (1, 4, 1, 1), "2.bias": (1,),
    }  # fmt: skip
    for name, value in module.combine.state_dict().items():
        assert torch.all(value == (1.0 if name.endswith("weight") else 0.0))


@torch.no_grad()
def test_softmax_weights_over_the_tokens_that_take_part() -> None:
    attention, tokens, mask = pair()
    module = seeded("softmax")
    weights = by_hand(module, attention)[:, mask[0]].softmax(dim=-1)
    expected = weights @ tokens[0, mask[0]]
    assert torch.allclose(module(attention, tokens, mask)[0], expected, atol=1e-5)


@torch.no_grad()
def test_plain_weights_without_class_tokens() -> None:
    attention, tokens, mask = pair()
    module = seeded("plain")
    patches = [row for row in range(2 * TOKENS) if row % TOKENS]
    expected = by_hand(module, attention)[1:, patches] @ tokens[0, patches]
    assert torch.allclose(module(attention, tokens, mask)[0], expected, atol=1e-5)


@torch.no_grad()
def test_padded_frames_get_no_weight() -> None:
    """In the released code they get some: the softmax runs over their zeros too."""
    attention, tokens, mask = pair()
    spoiled = tokens.clone()
    spoiled[:, 2 * TOKENS :] = 1e3
    for module in (seeded("softmax"), seeded("plain")):
        assert torch.equal(module(attention, spoiled, mask), module(attention, tokens, mask))
    assert not torch.allclose(module(attention, spoiled), module(attention, tokens))


def test_the_gradient_reaches_the_attention_alone() -> None:
    attention, tokens, mask = pair()
    attention.requires_grad_()
    tokens.requires_grad_()
    module = seeded("softmax")
    module(attention, tokens, mask).square().sum().backward()
    assert tokens.grad is None
    assert attention.grad is not None and attention.grad.abs().max() > 0
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_each_clip_is_held_against_the_picture_of_its_own_product() -> None:
    """Positive pairs only: the loss of a batch is that of its clips with their own pictures."""
    model = tiny_model()
    assert model.reconstruction is not None
    batch = BatchDrawer(RECIPE, {"made": photographs()}, torch.device("cpu")).draw(1)
    assert not batch.frame_mask.all(), "a padded clip is among them"
    with torch.no_grad():
        found = objective.rice_losses(model, batch, RECIPE)["pfr"]
        pictures, clips = model.encode_together(batch.pictures, batch.frames, batch.frame_mask)
        errors = []
        for clip, product in enumerate(batch.product.tolist()):
            picture, kept = pictures.tokens[product][None], clips.token_mask[clip]
            tokens = clips.tokens[clip][None, kept]
            decoded = model.decoder(picture, tokens)
            rebuilt = model.reconstruction(decoded.attention, tokens)
            errors.append(F.mse_loss(rebuilt, picture))
    assert torch.allclose(found, torch.stack(errors).mean(), rtol=1e-5)


def test_it_is_told_weighted_and_can_be_left_out() -> None:
    losses = {name: torch.tensor(1.0) for name in ("icl", "pmd", "pfr")}
    assert objective.total_loss(losses, RECIPE) == 3
    light = replace(RECIPE, reconstruction_weight=0.05)
    assert objective.total_loss(losses, light).item() == pytest.approx(2.05)
    batch = BatchDrawer(RECIPE, {"made": photographs()}, torch.device("cpu")).draw(0)
    without = replace(RECIPE, model=replace(CONFIG, reconstruction=None), reconstruction_weight=0.0)
    assert objective.rice_losses(Rice(without.model), batch, without).keys() == {"icl", "pmd"}
    assert objective.rice_losses(Rice(CONFIG), batch, RECIPE).keys() == {"icl", "pmd", "pfr"}
