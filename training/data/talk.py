"""Titles, and speech that names them, of shops that nobody has filmed too.

A text tower that only reads the few products of a photographed shop learns these by heart. Shops,
brands and salespersons of LPR-Synth (training.data.synthetic) can be made up without end: words
without drawing anything, and for words and sight together what the shop would show.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from training.data.frames import fit_frame
from training.data.spoken import spoken
from training.data.synthetic.articles import draw_article
from training.data.synthetic.catalogue import Product, make_shop
from training.data.synthetic.chance import pick
from training.data.synthetic.speech import speak
from training.data.synthetic.studio import shop_picture

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
    shop = _made_up_shop(count, rng)
    return [product.title for product in shop], _said(shop, rng)


def pictured_talk(count: int, size: int, rng: Generator) -> tuple[np.ndarray, Pairs]:
    """The same, and the shop's pictures, uint8 [M,S,S,3] with sides of `size`."""
    shop = _made_up_shop(count, rng)
    pictures = [
        fit_frame(shop_picture(draw_article(product), size, rng), product.title, None, None, size)
        for product in shop
    ]
    pairs = [product.title for product in shop], _said(shop, rng)
    return np.stack([picture.pixels for picture in pictures]), pairs


def _made_up_shop(count: int, rng: Generator) -> list[Product]:
    return list({product.title: product for product in make_shop(count, rng)}.values())


def _said(shop: list[Product], rng: Generator) -> list[str]:
    return [speak(product, [pick(shop, rng) for _ in range(ASIDES)], rng) for product in shop]
