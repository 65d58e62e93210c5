r"""One small RICE for photographed groceries, garments and livestreams: the one that is shipped.

    lpr-train fit live_small_128 --data grocery=DIR --data made=DIR --data clothing=DIR \
        --data synth=DIR --start CHECKPOINT --out RUN

It begins with a checkpoint of `grocery_small_128`, which knows groceries and has never seen a
livestream. Trained on livestreams alone it would forget them, so half of a batch is as before.
"""

from __future__ import annotations

from dataclasses import replace

from training.configs import Source, View
from training.recipes.grocery_small import GROCERY_SMALL_128

LIVE_SMALL_128 = replace(
    GROCERY_SMALL_128,
    name="live_small_128",
    sources=(
        Source("grocery", "photographs", products=40, frames=2),
        Source("made", "photographs", products=8),
        Source("clothing", "pictures", products=8),
        Source("synth", "lpr4m", products=32, frames=3),
    ),
    schedule=replace(
        GROCERY_SMALL_128.schedule,
        steps=500,
        warmup=30,
        encoder_rate=3e-4,
        matching_rate=3e-4,
        ema=0.99,
        evaluate_every=500,
    ),
    picture_view=View(scale=(0.75, 1.15), rotation=12.0, erase=0.05),
    frame_view=View(scale=(0.5, 1.0), rotation=15.0, erase=0.2),
    seed=0,
)
