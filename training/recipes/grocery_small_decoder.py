"""The matching decoder of `grocery_small` once more, on its finished and frozen encoder.

While the encoder still moves, the decoder follows it; with the encoder at rest it can learn what
tells look-alikes apart. So every product of the shop is in every batch, with all its look-alikes,
and clips are as long as the photographs at hand. Begin with the other recipe's best checkpoint:
`lpr-train fit grocery_small_decoder --start runs/grocery/best.safetensors ...`.
"""

from __future__ import annotations

from dataclasses import replace

from training.configs import Source
from training.recipes.grocery_small import GROCERY_SMALL

GROCERY_SMALL_DECODER = replace(
    GROCERY_SMALL,
    name="grocery_small_decoder",
    sources=(
        Source("grocery", "photographs", products=81, frames=4),
        Source("made", "photographs", products=24, frames=2),
        Source("clothing", "pictures", products=12),
    ),
    schedule=replace(
        GROCERY_SMALL.schedule,
        steps=800,
        warmup=40,
        encoder_rate=0.0,
        matching_rate=1e-3,
        evaluate_every=100,
    ),
    hard_negatives=7,
    seed=1,
)
