"""Recipes: each is one complete run, found by its name."""

from __future__ import annotations

from collections.abc import Iterable

from training.configs import AnyRecipe, DetectorRecipe, Recipe
from training.errors import TrainingError
from training.recipes.detectors import DETECTOR_CLIP_SMALL_SYNTH, DETECTOR_SMALL_SYNTH
from training.recipes.grocery_small import GROCERY_SMALL, GROCERY_SMALL_128
from training.recipes.live_small import LIVE_SMALL_128
from training.recipes.rice_small_synth import (
    RICE_SMALL_SYNTH,
    RICE_SMALL_SYNTH_96,
    RICE_SMALL_SYNTH_IPD,
)
from training.recipes.rice_text_small import GROCERY_TEXT_SMALL, RICE_TEXT_SMALL_SYNTH
from training.recipes.rice_vitb32 import RICE_VITB32
from training.recipes.sgmn_small import (
    GROCERY_SGMN_SMALL,
    GUIDED_SMALL_SYNTH,
    SGMN_LIVE_SMALL,
    SGMN_SMALL_SYNTH,
)
from training.recipes.sgmn_vitb32 import SGMN_VITB32

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        GROCERY_SMALL,
        GROCERY_SMALL_128,
        GROCERY_TEXT_SMALL,
        LIVE_SMALL_128,
        RICE_SMALL_SYNTH,
        RICE_SMALL_SYNTH_IPD,
        RICE_SMALL_SYNTH_96,
        RICE_TEXT_SMALL_SYNTH,
        *RICE_VITB32,
        GUIDED_SMALL_SYNTH,
        SGMN_SMALL_SYNTH,
        GROCERY_SGMN_SMALL,
        SGMN_LIVE_SMALL,
        *SGMN_VITB32,
    )
}
DETECTOR_RECIPES: dict[str, DetectorRecipe] = {
    recipe.name: recipe for recipe in (DETECTOR_SMALL_SYNTH, DETECTOR_CLIP_SMALL_SYNTH)
}


class UnknownRecipeError(TrainingError):
    """No recipe has that name; the message tells those there are."""


def recipe_named(name: str) -> Recipe:
    """Of RICE or SGMN. Raises UnknownRecipeError."""
    if name not in RECIPES:
        raise _unknown(name, RECIPES)
    return RECIPES[name]


def detector_recipe_named(name: str) -> DetectorRecipe:
    """Raises UnknownRecipeError."""
    if name not in DETECTOR_RECIPES:
        raise _unknown(name, DETECTOR_RECIPES)
    return DETECTOR_RECIPES[name]


def any_recipe_named(name: str) -> AnyRecipe:
    """Of a detector too. Raises UnknownRecipeError."""
    every: dict[str, AnyRecipe] = {**RECIPES, **DETECTOR_RECIPES}
    if name not in every:
        raise _unknown(name, every)
    return every[name]


def _unknown(name: str, known: Iterable[str]) -> UnknownRecipeError:
    return UnknownRecipeError(f"no recipe {name!r}; there are: {', '.join(known)}")
