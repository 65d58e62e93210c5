r"""The small recipes with ears and eyes for text: titles of products, and what is said in a clip.

    lpr-train fit rice_text_small_synth --data synth=DIR --start SEES --out RUN
    lpr-train fit grocery_text_small --data grocery=DIR --data made=DIR --start SEES --out RUN

Both begin with a checkpoint of `grocery_small_128`. On livestreams all is trained together. On
groceries all that sees stays locked (Zhai et al., 2022, "LiT: Zero-shot transfer with locked-image
text tuning"): a step trains text alone, in minutes on one core, and without text the model answers
as it did.

The text tower is of our own and begins from nothing; its tokenizer is trained on the sources' texts
when the run begins. Groceries have a description each and no sound: their speech is made of the
descriptions, misheard (training.data.spoken).
"""

from __future__ import annotations

from dataclasses import replace

from training.configs import Recipe, Schedule, Source, View
from training.models.text import TextConfig
from training.recipes.grocery_small import GROCERY_SMALL_128
from training.recipes.rice_small_synth import RICE_SMALL_SYNTH_96

TEXT = TextConfig(vocabulary=4096, width=128, layers=1, heads=2, max_tokens=64, embedding=128)
TEXT_RATE = 3e-3


def _reading(recipe: Recipe, name: str, schedule: Schedule) -> Recipe:
    return replace(
        recipe,
        name=name,
        model=replace(recipe.model, text=TEXT, text_tokens=False),
        schedule=schedule,
        text_dropout=0.3,
        wrong_speech=0.3,
        talk=32,
        seed=0,
    )


RICE_TEXT_SMALL_SYNTH = _reading(
    RICE_SMALL_SYNTH_96,
    "rice_text_small_synth",
    replace(RICE_SMALL_SYNTH_96.schedule, text_rate=TEXT_RATE),
)

# The encoder knows its training photographs by heart, so these are shown worse than ever: speech
# has something to add only where the eyes are not sure.
GROCERY_TEXT_SMALL = replace(
    _reading(
        GROCERY_SMALL_128,
        "grocery_text_small",
        Schedule(
            steps=600,
            warmup=20,
            encoder_rate=0.0,
            decoder_rate=0.0,
            matching_rate=1e-3,
            text_rate=TEXT_RATE,
            weight_decay=0.05,
            ema=0.98,
            evaluate_every=300,
        ),
    ),
    sources=(
        Source("grocery", "photographs", products=24, frames=2),
        Source("made", "photographs", products=12),
    ),
    frame_view=View(scale=(0.25, 0.9), rotation=20.0, erase=0.5),
    hard_negatives=35,  # the whole batch
    cycle=32,
)
