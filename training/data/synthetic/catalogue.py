"""What the shops of LPR-Synth sell: 34 categories with a long tail, and products that come in
families of near-duplicates - one article in other colours, sizes or prints.

Decides everything about a product that can be put in words; how it looks is drawn elsewhere.
"""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

import numpy as np
from numpy.random import Generator

from training.data.synthetic.chance import pick

Shown = Literal["held", "hung", "worn", "stood"]
"""Held in the hands by its sides; held up by its shoulders; worn; stood on the table."""

Print = Literal[
    "plain", "stripes", "hoops", "diagonals", "checks", "plaid", "dots", "flowers", "blobs",
    "zigzag", "halves", "gradient", "motifs",
]  # fmt: skip
PRINTS: tuple[Print, ...] = (
    "plain", "stripes", "hoops", "diagonals", "checks", "plaid", "dots", "flowers", "blobs",
    "zigzag", "halves", "gradient", "motifs",
)  # fmt: skip
PACKAGING_PRINTS: tuple[Print, ...] = (
    "plain", "gradient", "halves", "hoops", "dots", "flowers", "diagonals",
)  # fmt: skip
PRINT_WORDS: dict[Print, str] = {
    "plain": "", "stripes": "striped", "hoops": "hooped", "diagonals": "diagonal striped",
    "checks": "checked", "plaid": "plaid", "dots": "dotted", "flowers": "floral",
    "blobs": "camouflage", "zigzag": "zigzag", "halves": "two-tone", "gradient": "shaded",
    "motifs": "printed",
}  # fmt: skip
MOTIFS = ("star", "heart", "leaf", "moon", "bolt", "drop", "crown", "cat", "sun",
          "cherry", "wave")  # fmt: skip
COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (243, 241, 236), "ivory": (233, 222, 196), "beige": (208, 184, 150),
    "camel": (178, 132, 82), "brown": (104, 68, 46), "black": (34, 33, 36),
    "charcoal": (76, 78, 84), "grey": (150, 152, 156), "silver": (198, 202, 208),
    "red": (196, 34, 40), "wine": (112, 24, 44), "coral": (238, 110, 92),
    "orange": (236, 132, 34), "apricot": (244, 180, 128), "yellow": (244, 204, 52),
    "mustard": (200, 152, 36), "lime": (166, 204, 60), "olive": (112, 116, 56),
    "green": (46, 138, 72), "forest": (24, 78, 52), "mint": (160, 220, 192),
    "teal": (22, 126, 130), "turquoise": (66, 190, 196), "sky": (136, 190, 232),
    "blue": (40, 92, 190), "navy": (28, 40, 86), "denim": (84, 112, 156),
    "lavender": (178, 164, 220), "purple": (112, 58, 150), "plum": (88, 40, 88),
    "pink": (240, 158, 184), "rose": (214, 90, 130), "fuchsia": (206, 38, 126),
    "gold": (206, 170, 84),
}  # fmt: skip


CRAMPED = frozenset(
    ("shirt", "coat", "skirt", "trousers", "socks", "lipstick", "wine", "watch", "pan", "glasses",
     "necklace", "boot", "shoe", "stack")
)  # fmt: skip


@dataclass(frozen=True)
class Category:
    name: str
    shape: str
    """A shape of training.data.synthetic.shapes."""
    nouns: tuple[str, ...]
    shown: tuple[Shown, ...]
    sizes: tuple[tuple[str, float], ...] = ()
    """Sizes it is sold in, and what each does to its height over its width."""
    labelled: bool = False
    """Packaging: its print carries a label with the brand."""

    @property
    def prints(self) -> tuple[Print, ...]:
        return PACKAGING_PRINTS if self.labelled else PRINTS


_VOLUME = (("100 ml", 0.8), ("250 ml", 1.0), ("500 ml", 1.3))
_WEIGHT = (("100 g", 0.85), ("250 g", 1.0), ("500 g", 1.2))

CATEGORIES: tuple[Category, ...] = (  # the most sold first: shares fall by their rank
    Category("T-shirts", "tee", ("T-shirt", "tee"), ("worn", "hung")),
    Category("Dresses", "dress", ("dress", "summer dress"), ("hung",)),
    Category("Snacks", "pouch", ("crisps", "crackers"), ("held", "stood"), _WEIGHT, True),
    Category("Creams", "jar", ("face cream", "body butter"), ("held", "stood"),
             (("30 ml", 0.85), ("50 ml", 1.0), ("100 ml", 1.2)), True),
    Category("Sweaters", "sweater", ("sweater", "knit jumper"), ("worn", "hung")),
    Category("Trousers", "trousers", ("trousers", "chinos"), ("hung",)),
    Category("Shoes", "shoe", ("sneakers", "running shoes"), ("held", "stood")),
    Category("Handbags", "bag", ("handbag", "shoulder bag"), ("held", "stood")),
    Category("Shirts", "shirt", ("shirt", "blouse"), ("worn", "hung")),
    Category("Shampoos", "pump", ("shampoo", "body wash"), ("held", "stood"), _VOLUME, True),
    Category("Coats", "coat", ("coat", "jacket"), ("worn", "hung")),
    Category("Drinks", "bottle", ("juice", "iced tea"), ("held", "stood"), _VOLUME, True),
    Category("Skirts", "skirt", ("skirt", "pleated skirt"), ("hung",)),
    Category("Mugs", "mug", ("mug", "cup"), ("held", "stood")),
    Category("Lipsticks", "lipstick", ("lipstick", "lip tint"), ("held", "stood"), (), True),
    Category("Backpacks", "backpack", ("backpack", "rucksack"), ("held", "stood")),
    Category("Detergents", "jug", ("detergent", "fabric softener"), ("held", "stood"),
             (("1 l", 0.9), ("2 l", 1.1)), True),
    Category("Tissues", "box", ("tissues", "wipes"), ("held", "stood"), (), True),
    Category("Serums", "dropper", ("serum", "face oil"), ("held", "stood"), (), True),
    Category("Teas", "tin", ("tea", "coffee"), ("held", "stood"), _WEIGHT, True),
    Category("Bedding", "stack", ("bed set", "blanket"), ("held", "stood")),
    Category("Toys", "bear", ("plush bear", "teddy"), ("held", "stood")),
    Category("Perfumes", "flacon", ("perfume", "eau de toilette"), ("held", "stood"), (), True),
    Category("Hats", "cap", ("cap", "baseball cap"), ("held", "stood")),
    Category("Scarves", "scarf", ("scarf", "shawl"), ("hung",)),
    Category("Phone cases", "case", ("phone case", "phone cover"), ("held",)),
    Category("Rice", "sack", ("rice", "oats"), ("held", "stood"),
             (("1 kg", 0.85), ("2 kg", 1.0), ("5 kg", 1.2)), True),
    Category("Socks", "socks", ("socks", "ankle socks"), ("held",)),
    Category("Boots", "boot", ("boots", "ankle boots"), ("held", "stood")),
    Category("Wines", "wine", ("red wine", "sparkling wine"), ("held", "stood"), (), True),
    Category("Watches", "watch", ("watch", "wrist watch"), ("held",)),
    Category("Pans", "pan", ("frying pan", "saucepan"), ("held",)),
    Category("Sunglasses", "glasses", ("sunglasses", "shades"), ("held",)),
    Category("Necklaces", "necklace", ("necklace", "pendant"), ("held",)),
)  # fmt: skip

_ONSETS = ("b", "br", "d", "f", "fl", "k", "l", "m", "n", "p", "r", "s", "st", "t", "tr", "v", "z")
_VOWELS = ("a", "e", "i", "o", "u", "ei", "ou", "ia")
_CODAS = ("", "n", "r", "l", "s", "x", "ra", "no", "la", "do")


@dataclass(frozen=True)
class Product:
    """One article as the shop lists it."""

    image_id: str
    category_id: int
    family: int
    """Products of one shop with the same family are near-duplicates."""
    brand: str
    noun: str
    size: str
    stretch: float
    """Height over width, against its shape's own."""
    colours: tuple[str, str, str]
    """Names in COLOURS: ground, print, detail."""
    print: Print
    pitch: float
    """Period of the print over the sprite's side."""
    motif: str
    layout: int
    """Which of the labels, or where on a garment the motif sits."""
    cut: tuple[float, float, float]
    """What the outline is varied by, each in [0, 1]."""
    seed: int
    """Of what is drawn at random in the print: where flowers lie, ..."""

    @property
    def category(self) -> Category:
        return CATEGORIES[self.category_id]

    @property
    def motif_shown(self) -> bool:
        """Large enough to tell articles apart; dense patterns and cramped shapes leave no room."""
        if self.category.shape in CRAMPED:
            return False
        return self.category.labelled or self.print in ("plain", "halves", "gradient", "motifs")

    @property
    def title(self) -> str:
        what = f"{self.motif} " if self.motif_shown else ""
        words = (self.brand, self.colours[0], PRINT_WORDS[self.print], f"{what}{self.noun}")
        return " ".join(word for word in (*words, self.size) if word)


def category_shares() -> np.ndarray:
    """[34]: shares fall with the rank to the power 1.1, the long tail."""
    shares = 1.0 / np.arange(1, len(CATEGORIES) + 1) ** 1.1
    return shares / shares.sum()


def make_shop(size: int, rng: Generator) -> list[Product]:
    """`size` products: families of one to six, most of them near-duplicates of another."""
    brands = [_brand(rng) for _ in range(max(3, size // 12))]
    # A livestream sells a few kinds of things, but each shop other ones.
    weight = category_shares() * rng.gamma(0.6, size=len(CATEGORIES))
    weight /= weight.sum()
    products: list[Product] = []
    family = 0
    while len(products) < size:
        first = _article(int(rng.choice(len(CATEGORIES), p=weight)), family, brands, rng)
        count = min(int(rng.choice((1, 2, 3, 4, 6), p=(0.3, 0.25, 0.2, 0.15, 0.1))), size)
        products += _family(first, count, rng)
        family += 1
    return products[:size]


def make_article(category_id: int, rng: Generator) -> Product:
    """One product of no shop."""
    return _article(category_id, 0, [_brand(rng)], rng)


def _family(first: Product, count: int, rng: Generator) -> list[Product]:
    members = [first]
    for _ in range(count - 1):
        for _ in range(8):  # another try where the variant is one that is there already
            other = _variant(pick(members, rng), rng)
            if not any(_alike(other, member) for member in members):
                members.append(other)
                break
    return members


def _alike(one: Product, other: Product) -> bool:
    """A person could not tell them apart."""
    if one.print != other.print or one.size != other.size:
        return False
    if one.motif_shown and one.motif != other.motif:
        return False
    shown = 1 if one.print == "plain" and not one.motif_shown else 2  # colours that are seen
    pairs = zip(one.colours[:shown], other.colours[:shown], strict=True)
    return all(_distance(*pair) < 80 for pair in pairs)


def _article(category_id: int, family: int, brands: list[str], rng: Generator) -> Product:
    category = CATEGORIES[category_id]
    sizes = category.sizes or (("", 1.0),)
    size, stretch = pick(sizes, rng)
    return Product(
        image_id=_identity(rng),
        category_id=category_id,
        family=family,
        brand=pick(brands, rng),
        noun=pick(category.nouns, rng),
        size=size,
        stretch=stretch,
        colours=_colours(rng),
        print=pick(category.prints, rng),
        pitch=float(rng.uniform(0.06, 0.2)),
        motif=pick(MOTIFS, rng),
        layout=int(rng.integers(4)),
        cut=(float(rng.random()), float(rng.random()), float(rng.random())),
        seed=int(rng.integers(2**31)),
    )  # fmt: skip


def _variant(product: Product, rng: Generator) -> Product:
    """The same article in another colour, size or print."""
    category = product.category
    kinds = ["colour", "colour", "print", *(["size"] if category.sizes else [])]
    changed = pick(kinds, rng)
    fresh = replace(product, image_id=_identity(rng))
    if changed == "size":
        size, stretch = pick(category.sizes, rng)
        return replace(fresh, size=size, stretch=stretch)
    if changed == "print" and product.motif_shown:
        return replace(fresh, motif=pick(MOTIFS, rng))
    if changed == "print":
        return replace(fresh, print=pick(category.prints, rng))
    ground, printed, detail = _colours(rng)
    if rng.random() < 0.4:
        printed = product.colours[1]
    return replace(fresh, colours=(ground, printed, detail))


def _colours(rng: Generator) -> tuple[str, str, str]:
    """Three that can be told from each other."""
    names = list(COLOURS)
    ground = pick(names, rng)
    far = [name for name in names if _distance(ground, name) > 110]
    printed = pick(far, rng)
    rest = [name for name in far if _distance(printed, name) > 90] or far
    return ground, printed, pick(rest, rng)


@cache
def _distance(one: str, other: str) -> float:
    return math.dist(COLOURS[one], COLOURS[other])


def _brand(rng: Generator) -> str:
    syllables = [pick(_ONSETS, rng) + pick(_VOWELS, rng) for _ in range(int(rng.integers(1, 3)))]
    return ("".join(syllables) + pick(_CODAS, rng)).capitalize()


def _identity(rng: Generator) -> str:
    return str(uuid.UUID(bytes=rng.bytes(16), version=4))
