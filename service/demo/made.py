"""A shop of made products as a folder: the same layout as real photographs have (`layout`).

Seeds below 1000 are for training, seeds from 1000 on for demos and tests, so that no product of a
demo was ever seen in training.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from service.demo.layout import CLASSES, PHOTOGRAPHS, write_table
from service.demo.products import Product, make_products
from service.demo.scenes import photograph, shop_picture
from service.demo.work import Progress, each
from service.errors import DemoError

SPLITS = ("train", "val", "test")
PHOTOGRAPHS_PER_CLIP = 5
FIRST_DEMO_SEED = 1000
JPEG_QUALITY = 92

_NEIGHBOURS = 12
"""Products before and after in the shop that may stand on the shelf behind one."""


@dataclass(frozen=True)
class _Job:
    """All photographs of one product, and its shop picture."""

    out: Path
    products: int
    seed: int
    split: str
    product_id: int
    photographs: int
    size: int


@lru_cache(maxsize=2)
def _shop(products: int, seed: int) -> tuple[Product, ...]:
    return tuple(make_products(products, seed))


def class_name(product: Product) -> str:
    """The title in letters, digits and hyphens: a file name and an id."""
    return re.sub(r"[^A-Za-z0-9]+", "-", product.title).strip("-")


def _iconic(product: Product) -> str:
    return f"iconic/{class_name(product)}.jpg"


def _image(split: str, product: Product, number: int) -> str:
    name = class_name(product)
    return f"{split}/{name}/{name}_{number + 1:03d}.jpg"


def _behind(shop: Sequence[Product], product_id: int) -> list[Product]:
    around = range(product_id - _NEIGHBOURS, product_id + _NEIGHBOURS + 1)
    return [shop[k % len(shop)] for k in around]


def _render(job: _Job) -> None:
    """Writes one product's pictures. Each is decided by its own place in the data set alone."""
    shop = _shop(job.products, job.seed)
    product = shop[job.product_id]
    shop_picture(product).save(job.out / _iconic(product), quality=JPEG_QUALITY)
    others = _behind(shop, job.product_id)
    for number in range(job.photographs):
        place = [job.seed, 1 + SPLITS.index(job.split), job.product_id, number]
        picture = photograph(product, others, np.random.default_rng(place), size=job.size)
        path = job.out / _image(job.split, product, number)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path, quality=JPEG_QUALITY)


def make_dataset(
    out: Path,
    *,
    products: int,
    photographs: int,
    seed: int,
    split: str = "train",
    size: int = 256,
    progress: Progress | None = None,
    processes: int | None = None,
) -> None:
    """Writes a shop of `products` and `photographs` of each, square with sides of `size` pixels.

    The same arguments give the same files. Another split of the same seed shows the same shop in
    other photographs, and may go into the same folder. Raises DemoError.
    """
    if products < 1 or photographs < 1 or size < 64 or split not in SPLITS:
        raise DemoError(
            "a made shop needs at least 1 product, 1 photograph of each, photographs of at least "
            f"64 pixels, and a split among {', '.join(SPLITS)}"
        )
    shop = _shop(products, seed)
    (out / "iconic").mkdir(parents=True, exist_ok=True)
    classes = [(product.product_id, class_name(product), _iconic(product)) for product in shop]
    write_table(out / "classes.csv", CLASSES, classes)
    jobs = [_Job(out, products, seed, split, p.product_id, photographs, size) for p in shop]
    each(_render, jobs, progress, processes=processes)
    rows = [
        (
            _image(split, product, number),
            product.product_id,
            f"{split}-{product.product_id:03d}-{number // PHOTOGRAPHS_PER_CLIP:02d}",
        )
        for product in shop
        for number in range(photographs)
    ]
    write_table(out / f"{split}.csv", PHOTOGRAPHS, rows)
