"""A small RICE from nothing on LPR-Synth: the whole way of LPR4M, for one computer.

    lpr-train data synth --out DIR --clips 16000 --size 128
    lpr-train fit rice_small_synth --data synth=DIR --out RUN

Clips are drawn and scored as LPR4M's are: several frames, distractors in most of them, queries
against the several hundred pictures of their own livestream's shop. The model is that of
`grocery_small`: a convolutional stem and `own_direction` let it begin without CLIP's weights.
"""

from __future__ import annotations

from dataclasses import replace

from training.configs import Recipe, Schedule, Source, View
from training.recipes.grocery_small import GROCERY_SMALL

RICE_SMALL_SYNTH = Recipe(
    name="rice_small_synth",
    model=replace(
        GROCERY_SMALL.model, encoder=replace(GROCERY_SMALL.model.encoder, drop_path=0.05)
    ),
    sources=(Source("synth", "lpr4m", products=48, frames=4),),
    validate_on="synth",
    schedule=Schedule(
        steps=3000,
        warmup=150,
        encoder_rate=1e-3,
        matching_rate=1e-3,
        weight_decay=0.05,
        ema=0.995,
        evaluate_every=250,
    ),
    picture_view=View(scale=(0.8, 1.1), rotation=10.0, erase=0.0),
    frame_view=View(scale=(0.6, 1.0), rotation=10.0, erase=0.1),
    contest="both",
    hard_negatives=47,  # the whole batch: shops are matched whole, easy ones included
    reconstruction_weight=0.0,
)

# Only patches of the intended product take part: annotated boxes in training, a detector's after.
RICE_SMALL_SYNTH_IPD = replace(RICE_SMALL_SYNTH, name="rice_small_synth_ipd", intended_boxes=True)

# Smaller pictures and fewer of them, beginning (`--start`) with a checkpoint of `grocery_small_128`
# as the paper's begins with CLIP: an ablation of three seeds takes an hour and a half on one core.
RICE_SMALL_SYNTH_96 = replace(
    RICE_SMALL_SYNTH,
    name="rice_small_synth_96",
    model=replace(
        RICE_SMALL_SYNTH.model,
        encoder=replace(RICE_SMALL_SYNTH.model.encoder, image_size=96),
    ),
    sources=(Source("synth", "lpr4m", products=32, frames=3),),
    schedule=replace(
        RICE_SMALL_SYNTH.schedule,
        steps=600,
        warmup=40,
        encoder_rate=5e-4,
        matching_rate=5e-4,
        ema=0.99,
        evaluate_every=300,
    ),
    hard_negatives=31,  # the whole batch
)
