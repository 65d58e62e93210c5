"""A small RICE from nothing, on the 2,640 photographs of GroceryStoreDataset.

Few photographs need help: a convolutional stem, strong variation of both views, and two further
sources in every batch that make it match instances rather than learn 81 classes by heart:
pictures of garments, each its own product, and made products (`lpr made`).
"""

from __future__ import annotations

from dataclasses import replace

from training.configs import Recipe, Schedule, Source, View
from training.models.encoder import EncoderConfig
from training.models.rice import RiceConfig

GROCERY_SMALL = Recipe(
    name="grocery_small",
    model=RiceConfig(
        encoder=EncoderConfig(
            image_size=112,
            patch_size=16,
            width=192,
            layers=6,
            heads=3,
            embedding=256,
            stem="conv",
            stem_depth=2,
            drop_path=0.1,
        ),
        matching_heads=6,
        own_direction=True,
        attention_dropout=0.0,
        reconstruction=None,
    ),
    sources=(
        Source("grocery", "photographs", products=48, clips_per_product=2, frames=2),
        Source("made", "photographs", products=16, clips_per_product=2, frames=1),
        Source("clothing", "pictures", products=12),
    ),
    validate_on="grocery",
    schedule=Schedule(
        steps=2200,
        warmup=120,
        encoder_rate=1e-3,
        matching_rate=1e-3,
        weight_decay=0.05,
        ema=0.995,
        evaluate_every=100,
    ),
    picture_view=View(scale=(0.7, 1.2), rotation=15.0, erase=0.1),
    frame_view=View(scale=(0.4, 1.0), rotation=20.0, erase=0.3),
    hard_negatives=63,  # nearly the whole batch: shops are matched whole, easy ones included
    contest="both",
    reconstruction_weight=0.0,
)

# The same on pictures of 128 pixels, beginning (`--start`) with what 112 have taught. The matcher,
# which gains most from a finer grid, weighs more.
GROCERY_SMALL_128 = replace(
    GROCERY_SMALL,
    name="grocery_small_128",
    model=replace(
        GROCERY_SMALL.model,
        encoder=replace(GROCERY_SMALL.model.encoder, image_size=128),
        attention_dropout=0.1,
    ),
    schedule=replace(
        GROCERY_SMALL.schedule, steps=1600, warmup=50, encoder_rate=5e-4, matching_rate=5e-4
    ),
    matching_weight=2.0,
    seed=1,
)
