"""Made products: whole shops of them, decided by a seed, with families that are hard to tell apart.

A family shares article, brand, shape and composition; its members differ in one thing only: the
colour, the flavour (word, motif and accent), the print, or a numeral. Knows no scenes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from PIL import Image

from service.demo.articles import ARTICLES, Article
from service.demo.colours import COLOUR_NAMES, distance, luminance, named_colour
from service.demo.faces import LAYOUTS, Design, made_up_word
from service.demo.motifs import MOTIFS
from service.demo.patterns import PATTERNS

TURNS = (-0.8, -0.3, 0.3, 0.8)
SPRITE = 448
"""Pixels of the square canvas that a product is kept on."""
FAMILY_SHARES = (0.3, 0.28, 0.22, 0.12, 0.08)
"""Of families of one, two, three, four and five members."""

_SIZES = ("330 ml", "500 ml", "1 l", "250 g", "400 g", "12 pcs", "2x", "75 cl")
_NUMERALS = ("No 1", "No 2", "No 3", "No 5", "No 7", "No 8", "No 9")


@dataclass(frozen=True)
class Product:
    """One product of a made shop. `family` counts from 0; its members are near-duplicates."""

    product_id: int
    family: int
    article: int
    brand: str
    variant: str
    design: Design
    shape: float

    @property
    def kind(self) -> Article:
        """How it is drawn."""
        return ARTICLES[self.article]

    @property
    def family_name(self) -> str:
        """Brand and article."""
        return f"{self.brand} {self.kind.name}"

    @property
    def title(self) -> str:
        """Brand, article and what sets it apart."""
        return f"{self.family_name} {self.variant}"


def _colours(rng: np.random.Generator, count: int) -> list[str]:
    """Names of colours that a person can tell apart in a dim photograph."""
    names: list[str] = []
    for name in rng.permutation(COLOUR_NAMES):
        if all(distance(named_colour(name), named_colour(other)) > 0.22 for other in names):
            names.append(str(name))
        if len(names) == count:
            return names
    return _colours(rng, count)


def _base_design(rng: np.random.Generator, *, cloth: bool) -> Design:
    """A design whose ground and second colour can be told apart."""
    while True:
        names = _colours(rng, 4)
        ground, second, accent, leaf = (named_colour(name, rng) for name in names)
        if abs(luminance(ground) - luminance(second)) > 0.18:
            break
    motif = str(rng.choice(list(MOTIFS)))
    patterned = rng.random() < (0.5 if cloth else 0.4)
    return Design(
        brand=made_up_word(rng),
        word=motif,
        numeral="" if cloth else str(rng.choice(_SIZES)),
        layout=str(rng.choice(LAYOUTS)),
        motif=motif,
        pattern=str(rng.choice(list(PATTERNS))) if patterned else "",
        ground=ground,
        second=second,
        accent=accent,
        leaf=leaf,
        weight=int(rng.integers(0, 6)),
        slant=float(rng.choice([0.0, 0.0, 0.2])),
    )


def _by_colour(base: Design, names: list[str], rng: np.random.Generator) -> list[Design]:
    return [replace(base, word=name, ground=named_colour(name, rng)) for name in names]


def _by_flavour(base: Design, names: list[str], rng: np.random.Generator) -> list[Design]:
    motifs = rng.choice(list(MOTIFS), len(names), replace=False)
    return [
        replace(base, word=str(motif), motif=str(motif), accent=named_colour(name, rng))
        for motif, name in zip(motifs, names, strict=True)
    ]


def _by_print(base: Design, count: int, rng: np.random.Generator) -> list[Design]:
    motifs = rng.choice(list(MOTIFS), count, replace=False)
    return [replace(base, word=str(motif), motif=str(motif)) for motif in motifs]


def _by_numeral(base: Design, names: list[str], rng: np.random.Generator) -> list[Design]:
    numerals = rng.choice(_NUMERALS, len(names), replace=False)
    return [
        replace(base, word=str(numeral), accent=named_colour(name, rng))
        for numeral, name in zip(numerals, names, strict=True)
    ]


def _by_pattern(base: Design, count: int, rng: np.random.Generator) -> list[Design]:
    patterns = rng.choice(["", *PATTERNS], count, replace=False)
    return [replace(base, word=str(p) or "Plain", pattern=str(p)) for p in patterns]


def _members(base: Design, size: int, rng: np.random.Generator, *, cloth: bool) -> list[Design]:
    """Designs that differ in one thing, with names that say which."""
    kinds = ("colour", "print", "pattern") if cloth else ("colour", "flavour", "flavour", "numeral")
    kind = str(rng.choice(kinds))
    names = _colours(rng, size)
    if kind == "colour":
        return _by_colour(base, names, rng)
    if kind == "flavour":
        return _by_flavour(base, names, rng)
    if kind == "print":
        return _by_print(base, size, rng)
    if kind == "pattern":
        return _by_pattern(base, size, rng)
    return _by_numeral(base, names, rng)


def make_products(count: int, seed: int) -> list[Product]:
    """A shop of `count` products, the same for the same seed."""
    rng = np.random.default_rng([seed, 0])
    products: list[Product] = []
    brands: set[str] = set()
    family = 0
    order: list[int] = []
    while len(products) < count:
        if not order:
            order = [int(k) for k in rng.permutation(len(ARTICLES))]
        article = order.pop()
        cloth = ARTICLES[article].cloth
        base = _base_design(rng, cloth=cloth)
        if base.brand in brands:
            continue
        brands.add(base.brand)
        size = min(int(rng.choice(5, p=FAMILY_SHARES)) + 1, count - len(products))
        shape = float(rng.random())
        for design in _members(base, size, rng, cloth=cloth):
            products.append(
                Product(len(products), family, article, base.brand, design.word, design, shape)
            )
        family += 1
    return products


@lru_cache(maxsize=256)
def _drawn(product: Product, view: int) -> Image.Image:
    whole = product.kind.draw(product.design, product.shape, TURNS[view])
    whole = whole.resize((SPRITE, SPRITE), Image.Resampling.LANCZOS)
    return whole.crop(whole.getbbox())


@lru_cache(maxsize=4096)
def sprite(product: Product, view: int, longest: int) -> Image.Image:
    """The cut-out product, RGBA, cropped to what is opaque and turned to TURNS[view].

    Its longer side has `longest` pixels, at most SPRITE. Sprites are kept, for they are costly.
    """
    drawn = _drawn(product, view)
    scale = longest / max(drawn.size)
    if scale >= 1:
        return drawn
    size = max(1, round(drawn.width * scale)), max(1, round(drawn.height * scale))
    return drawn.resize(size, Image.Resampling.BOX if scale < 0.5 else Image.Resampling.BICUBIC)
