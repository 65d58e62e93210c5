"""One made livestream: a shop, a room, a presenter, and the clips that sell some of its products.

A livestream depends on the data set's seed and its own number alone, whoever makes it and when.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from training.data.records import Box, Clip, duration_type, products_type, scale_type
from training.data.synthetic.articles import Article, draw_article
from training.data.synthetic.catalogue import CATEGORIES, Product, Shown, make_article, make_shop
from training.data.synthetic.chance import pick
from training.data.synthetic.film import Props, Stage, film, make_stage
from training.data.synthetic.presenter import SLEEVES, make_presenter
from training.data.synthetic.room import make_room
from training.data.synthetic.script import write_script
from training.data.synthetic.speech import speak
from training.data.synthetic.studio import shop_picture

EPOCH = 1_700_000_000_000  # ms; when the first livestream began
TWICE = 0.1  # of products have a second picture in the shop: both are right answers
BYSTANDERS = 20  # products that stand about in the room


@dataclass(frozen=True)
class Plan:
    """What a livestream is made from."""

    seed: int
    number: int
    clips: int
    frames: int
    width: int
    height: int
    shop_size: int
    whole_shop: bool
    """Pictures of all products are made, not only of those that a clip sells."""
    rivals: bool = False
    """More products are compared, and held alike."""
    by_speech: bool = False
    """Some of them all the while: only speech tells which is sold."""


@dataclass(frozen=True)
class ShopPhoto:
    image_id: str
    title: str
    jpeg: bytes


@dataclass(frozen=True)
class MadeClip:
    clip: Clip
    frames: list[bytes]
    others: list[list[Box]]
    """Boxes of all products but the intended one, by frame."""
    truth: tuple[str, ...]
    """All pictures of its product."""


class Livestream:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        rng = np.random.default_rng([plan.seed, plan.number])
        self.live_id = str(uuid.UUID(bytes=rng.bytes(16), version=4))
        self.shop = make_shop(plan.shop_size, rng)
        self._articles: dict[str, Article] = {}
        self._sold = _sold(self.shop, plan.clips, rng)
        others = rng.choice(len(self.shop), min(BYSTANDERS, len(self.shop)), replace=False)
        stock = self._sold + [self.shop[i] for i in others]
        self._second = {p.image_id: str(uuid.UUID(bytes=rng.bytes(16), version=4))
                        for p in self.shop if rng.random() < TWICE}  # fmt: skip
        self._stock = [self._article(product) for product in stock]
        self._crowded = float(rng.random()) ** 1.5
        self._stage = self._set_up(rng)

    def photos(self) -> Iterator[ShopPhoto]:
        """The shop's pictures."""
        for place, product in enumerate(self.shop if self.plan.whole_shop else self._sold):
            for take, image_id in enumerate(self._pictures_of(product)):
                rng = np.random.default_rng([self.plan.seed, self.plan.number, 1, place, take])
                jpeg = shop_picture(self._article(product), self.plan.width, rng)
                yield ShopPhoto(image_id, product.title, jpeg)

    def clips(self) -> Iterator[MadeClip]:
        start = EPOCH + self.plan.number * 100_000_000
        for number in range(self.plan.clips):
            rng = np.random.default_rng([self.plan.seed, self.plan.number, 2, number])
            made = self._clip(start, rng)
            yield made
            start = int(made.clip.clip_id.rpartition("-")[2]) + int(rng.integers(1, 60)) * 1000

    def _pictures_of(self, product: Product) -> list[str]:
        second = self._second.get(product.image_id) if self.plan.whole_shop else None
        return [product.image_id] + ([second] if second else [])

    def _article(self, product: Product) -> Article:
        if product.image_id not in self._articles:
            self._articles[product.image_id] = draw_article(product)
        return self._articles[product.image_id]

    def _set_up(self, rng: Generator) -> Stage:
        """Room, presenter and camera. What the presenter wears is not sold in this shop."""
        tops = [i for i, category in enumerate(CATEGORIES) if category.shape in SLEEVES]
        own = make_article(pick(tops, rng), rng)
        room = make_room(self.plan.width, self.plan.height, self._stock, rng, crowded=self._crowded)
        return make_stage(room, make_presenter(rng, draw_article(own, worn=True)), rng)

    def _clip(self, start: int, rng: Generator) -> MadeClip:
        plan = self.plan
        product = self._sold[int(len(self._sold) * float(rng.random()) ** 1.6)]
        other = self._another(product, rng)
        article = self._article(product)
        script = write_script(
            plan.frames, self._ways(product), rng,
            crowded=self._crowded, rivals=plan.rivals, by_speech=plan.by_speech,
        )  # fmt: skip
        worn = draw_article(product, worn=True) if script.shown == "worn" else article
        shot = film(self._stage, script, Props(article, worn, self._article(other)), rng)
        clip_id = f"{self.live_id}-{start}-{start + script.seconds * 1000}"
        seconds = [(2 * i + 1) * script.seconds // (2 * plan.frames) for i in range(plan.frames)]
        seen = [len(o) + (box is not None) for o, box in zip(shot.others, shot.boxes, strict=True)]
        pictures = self._pictures_of(product)
        clip = Clip(
            clip_id=clip_id,
            live_id=self.live_id,
            frames=tuple(f"{clip_id}-{second:04d}" for second in seconds),
            boxes=tuple(() if box is None else (box,) for box in shot.boxes),
            image_id=pictures[0],
            image=pictures[0],
            product_id=pictures[0],
            title=product.title,
            category_id=str(product.category_id),
            category=product.category.name,
            speech=speak(product, [other], rng),
            scale=scale_type(shot.boxes),
            duration=duration_type(shot.boxes),
            products=products_type(seen),
        )
        return MadeClip(clip, shot.frames, shot.others, tuple(pictures))

    def _another(self, product: Product, rng: Generator) -> Product:
        """Shown or mentioned beside the product; a near-duplicate now and then."""
        others = [a.product for a in self._stock if a.product.image_id != product.image_id]
        if not others:
            return make_article(product.category_id, rng)
        return pick(others, rng)

    def _ways(self, product: Product) -> tuple[Shown, ...]:
        """Without a table nothing stands on one."""
        ways = product.category.shown
        if self._stage.room.table is None:
            ways = tuple(way for way in ways if way != "stood")
        return ways


def _sold(shop: list[Product], clips: int, rng: Generator) -> list[Product]:
    """The products that clips sell, about four clips each: whole families, so that near-duplicates
    are sold too."""
    wanted = min(max(2, round(clips / 4)), len(shop))
    families: dict[int, list[Product]] = {}
    for product in shop:
        families.setdefault(product.family, []).append(product)
    sold: list[Product] = []
    for family in rng.permutation(list(families)):
        sold += families[int(family)]
        if len(sold) >= wanted:
            break
    return [sold[i] for i in rng.permutation(min(wanted, len(sold)))]
