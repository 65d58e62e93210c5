"""Recipes: each module is one complete run, found by its name."""

from __future__ import annotations

from training.configs import Recipe
from training.recipes.grocery_small import GROCERY_SMALL

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in (GROCERY_SMALL,)}
