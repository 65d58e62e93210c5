r"""The small recipes with ears and eyes for text: titles of products, and what is said in a clip.

    lpr-train fit rice_text_small_synth --data synth=DIR --out RUN
    lpr-train fit grocery_text_small --data grocery=DIR --data made=DIR --data clothing=DIR \
        --out RUN

Everything else is as in `rice_small_synth` and `grocery_small`, so that what text adds can be told.
The text tower is of our own and begins from nothing; its tokenizer is trained on the sources' texts
when the run begins. Groceries have a description each and no sound: their speech is made of the
descriptions, misheard (training.data.spoken).
"""

from __future__ import annotations

from dataclasses import replace

from training.configs import Recipe
from training.models.text import TextConfig
from training.recipes.grocery_small import GROCERY_SMALL
from training.recipes.rice_small_synth import RICE_SMALL_SYNTH

TEXT = TextConfig(vocabulary=4096, width=128, layers=2, heads=2, max_tokens=64, embedding=128)


def _reading(recipe: Recipe, name: str) -> Recipe:
    return replace(
        recipe,
        name=name,
        model=replace(recipe.model, text=TEXT),
        schedule=replace(recipe.schedule, text_rate=1e-3),
    )


RICE_TEXT_SMALL_SYNTH = _reading(RICE_SMALL_SYNTH, "rice_text_small_synth")
GROCERY_TEXT_SMALL = _reading(GROCERY_SMALL, "grocery_text_small")
