"""The salesperson: who it is, and a body of sprites that moves. Arms are drawn elsewhere.

Lengths are in heads: the height of the head, from which a body's proportions follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from training.data.synthetic.articles import Article
from training.data.synthetic.catalogue import COLOURS
from training.data.synthetic.chance import pick
from training.data.synthetic.heads import draw_head, draw_looks
from training.data.synthetic.sprites import (
    Colour,
    Sprite,
    corners,
    mark,
    paste,
    placed,
    round_limb,
    tint,
)

LEGS = ("navy", "black", "denim", "charcoal", "beige")
SHOES = (44, 42, 46)
SLEEVES = {"tee": 0.3, "shirt": 0.95, "sweater": 0.97, "coat": 0.97}

Point = tuple[float, float]


@dataclass(frozen=True)
class Presenter:
    """Looks of one person."""

    skin: Colour
    head: Sprite
    speaking: Sprite
    """The same head with an open mouth."""
    wears: Article
    """What covers the body; drawn as worn, without its sleeves."""
    legs: Colour
    build: float
    """Width of the body, about 1."""

    @property
    def sleeve(self) -> Colour:
        return _sleeve_colour(self.wears)

    @property
    def sleeve_length(self) -> float:
        """Share of the arm that is covered."""
        return SLEEVES[self.wears.product.category.shape]


class Stance(NamedTuple):
    """Where a body is in one frame, in pixels."""

    neck: Point
    head: float
    """Height of the head."""
    lean: float
    """Degrees that the body leans, and about half as much again the head."""
    speaks: bool


class Body(NamedTuple):
    """Where the arms begin."""

    left: Point
    right: Point


def make_presenter(rng: Generator, wears: Article) -> Presenter:
    """`wears` is an article drawn as worn."""
    looks = draw_looks(rng)
    return Presenter(
        skin=looks.skin,
        head=draw_head(looks, open_mouth=False),
        speaking=draw_head(looks, open_mouth=True),
        wears=wears,
        legs=COLOURS[pick(LEGS, rng)],
        build=float(rng.uniform(0.92, 1.12)),
    )


@lru_cache(maxsize=256)
def _sleeve_colour(article: Article) -> Colour:
    """Of the ground, or between both colours of a dense print."""
    if article.product.motif_shown or article.product.print == "flowers":
        return COLOURS[article.product.colours[0]]
    ground, printed = (COLOURS[name] for name in article.product.colours[:2])
    red, green, blue = ((a + b) // 2 for a, b in zip(ground, printed, strict=True))
    return red, green, blue


def draw_body(
    frame: np.ndarray,
    presenter: Presenter,
    stance: Stance,
    *,
    legs: bool,
    own: np.ndarray | None,
) -> Body:
    """Everything but the arms; `own` is given where the clothes are what is sold, and marked."""
    unit, neck = stance.head, np.array(stance.neck)
    if legs:
        _legs(frame, presenter, neck, unit)
    _neck(frame, presenter, neck, unit)
    matrix = worn_at(presenter, stance)
    paste(frame, presenter.wears.sprite, matrix)
    if own is not None:
        mark(own, presenter.wears.sprite, matrix)
    head = presenter.speaking if stance.speaks else presenter.head
    middle = neck + unit * np.array((0.012 * stance.lean, -0.72))
    paste(
        frame, head, placed(head, (middle[0], middle[1]), unit * 0.98, 1.4 * stance.lean), own=own
    )
    left, right = corners(presenter.wears.sprite, matrix, np.array([(0.29, 0.12), (0.71, 0.12)]))
    return Body((left[0], left[1]), (right[0], right[1]))


def worn_at(presenter: Presenter, stance: Stance) -> np.ndarray:
    """The map of the garment onto the body."""
    sprite = presenter.wears.sprite
    across = 1.72 * presenter.build * stance.head  # from shoulder to shoulder
    width = across / 0.48  # garments' shoulders are 48 % of their width apart
    height = width * sprite.height / sprite.width
    centre = (stance.neck[0], stance.neck[1] + height * 0.47 + 0.06 * stance.head)
    return placed(sprite, centre, width, stance.lean)


def _neck(frame: np.ndarray, presenter: Presenter, neck: np.ndarray, unit: float) -> None:
    top, bottom = neck - np.array((0, 0.35 * unit)), neck + np.array((0, 0.16 * unit))
    round_limb(frame, (top, bottom), (0.2 * unit, 0.27 * unit), tint(presenter.skin, 0.84))


def _legs(frame: np.ndarray, presenter: Presenter, neck: np.ndarray, unit: float) -> None:
    for side in (-1, 1):
        hip = neck + unit * np.array((0.38 * side * presenter.build, 2.5))
        foot = hip + unit * np.array((0.12 * side, 3.6))
        round_limb(frame, (hip, foot), (0.45 * unit, 0.24 * unit), presenter.legs)
        toe = foot + unit * np.array((0.12 * side, 0.18))
        round_limb(frame, (foot, toe), (0.2 * unit, 0.2 * unit), SHOES)
