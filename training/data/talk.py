"""Titles, and speech that names them, without any picture: of shops that nobody has filmed too.

A text tower that only reads the few products of a photographed shop learns these by heart. Shops,
brands and salespersons of LPR-Synth (training.data.synthetic) can be made up without end, and
without drawing anything.
"""

from __future__ import annotations

from collections.abc import Sequence

from numpy.random import Generator

from training.data.spoken import spoken
from training.data.synthetic.catalogue import make_shop
from training.data.synthetic.chance import pick
from training.data.synthetic.speech import speak

Pairs = tuple[list[str], list[str]]
"""Titles, and what is said of each."""

ASIDES = 2  # other products that are mentioned, at most


def talk_of(titles: Sequence[str], count: int, rng: Generator) -> Pairs:
    """Up to `count` of a shop's titles, and speech that is made of them."""
    chosen = [titles[place] for place in rng.permutation(len(titles))[:count]]
    return chosen, [spoken(title, titles, rng) for title in chosen]


def made_up_talk(count: int, rng: Generator) -> Pairs:
    """Titles of a made-up shop, near-duplicates among them; up to `count` pairs, without two of the
    same title."""
    shop = list({product.title: product for product in make_shop(count, rng)}.values())
    said = [speak(product, [pick(shop, rng) for _ in range(ASIDES)], rng) for product in shop]
    return [product.title for product in shop], said
