"""The kinds of made products there are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from service.demo.cloth_bodies import (
    cap,
    dress,
    jumper,
    shorts,
    skirt,
    sneaker,
    socks,
    t_shirt,
    tote,
    trousers,
)
from service.demo.faces import Design
from service.demo.flat_bodies import box, carton, pouch
from service.demo.round_bodies import bottle, can, cup, flask, jar, mug, tin, tube


@dataclass(frozen=True)
class Article:
    """What a kind of product is called, how it is drawn, and whether it is made of cloth."""

    name: str
    draw: Callable[[Design, float, float], Image.Image]
    cloth: bool = False


ARTICLES: tuple[Article, ...] = (
    Article("Cereal", box),
    Article("Tea", box),
    Article("Juice", carton),
    Article("Oat drink", carton),
    Article("Crisps", pouch),
    Article("Coffee", pouch),
    Article("Soda", can),
    Article("Soup", can),
    Article("Tuna", tin),
    Article("Lemonade", bottle),
    Article("Shampoo", flask),
    Article("Soap", flask),
    Article("Jam", jar),
    Article("Yoghurt", cup),
    Article("Hand cream", tube),
    Article("Toothpaste", tube),
    Article("Mug", mug),
    Article("Tee", t_shirt, cloth=True),
    Article("Jumper", jumper, cloth=True),
    Article("Dress", dress, cloth=True),
    Article("Shorts", shorts, cloth=True),
    Article("Trousers", trousers, cloth=True),
    Article("Skirt", skirt, cloth=True),
    Article("Socks", socks, cloth=True),
    Article("Cap", cap, cloth=True),
    Article("Bag", tote, cloth=True),
    Article("Sneakers", sneaker, cloth=True),
)
