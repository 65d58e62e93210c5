"""A recipe and pictures so small that a step takes milliseconds."""

from __future__ import annotations

import torch

from training.configs import Recipe, Schedule, Source
from training.data.photographs import PhotographSet
from training.models.encoder import EncoderConfig
from training.models.rice import Rice, RiceConfig

CONFIG = RiceConfig(
    encoder=EncoderConfig(
        image_size=32,
        patch_size=8,
        width=32,
        layers=2,
        heads=2,
        embedding=16,
        stem="conv",
        drop_path=0.1,
    ),
    frames=3,
    matching_heads=4,
)

RECIPE = Recipe(
    name="tiny",
    model=CONFIG,
    sources=(Source("made", "photographs", products=4, clips_per_product=2, frames=2),),
    validate_on="made",
    schedule=Schedule(
        steps=6, warmup=1, encoder_rate=1e-3, matching_rate=1e-3, ema=0.9, evaluate_every=3
    ),
)


def tiny_model(seed: int = 0) -> Rice:
    torch.manual_seed(seed)
    return Rice(CONFIG).eval()


def photographs(products: int = 5, clips: int = 2, seed: int = 0) -> PhotographSet:
    """Each product is one colour; each clip two noisy photographs of it."""
    generator = torch.Generator().manual_seed(seed)
    colours = torch.randint(0, 256, (products, 1, 1, 3), generator=generator)
    product = torch.arange(products).repeat_interleave(2 * clips)
    noise = torch.randint(-20, 21, (len(product), 40, 40, 3), generator=generator)
    return PhotographSet(
        names=[f"product {i}" for i in range(products)],
        pictures=colours.expand(-1, 40, 40, -1).byte(),
        photographs=(colours[product] + noise).clamp(0, 255).byte(),
        product=product,
        clip=torch.arange(len(product)) // 2,
    )
