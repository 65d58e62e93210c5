"""Made products: decided by the seed, hard to tell apart, in the layout of real data."""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.demo.articles import ARTICLES
from service.demo.canvas import homography
from service.demo.layout import read_shop, read_takes
from service.demo.made import make_dataset
from service.demo.products import Product, make_products, sprite
from service.demo.scenes import photograph, shop_picture
from service.errors import DemoError


def _tree(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _families(products: list[Product]) -> list[list[Product]]:
    families = defaultdict(list)
    for product in products:
        families[product.family].append(product)
    return [members for members in families.values() if len(members) > 1]


def test_the_same_seed_makes_the_same_shop_and_another_seed_another() -> None:
    assert make_products(40, 1000) == make_products(40, 1000)
    assert make_products(40, 1000) != make_products(40, 1001)


def test_a_larger_shop_begins_with_the_families_of_a_smaller_one() -> None:
    small, large = make_products(20, 1000), make_products(60, 1000)
    assert small[:15] == large[:15]


def test_names_are_unique() -> None:
    titles = [product.title for product in make_products(200, 1000)]
    assert len(set(titles)) == 200


def test_every_article_is_drawn_within_the_canvas_with_a_clear_background() -> None:
    products = make_products(120, 1000)
    assert {p.article for p in products} == set(range(len(ARTICLES)))
    for article in range(len(ARTICLES)):
        product = next(p for p in products if p.article == article)
        whole = product.kind.draw(product.design, product.shape, 0.3)
        alpha = np.asarray(whole)[..., 3]
        covered = (alpha > 128).mean()
        assert 0.08 < covered < 0.9, product.title
        edge = np.concatenate([alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]])
        assert edge.max() == 0, f"{product.title} is cut off"


def test_members_of_a_family_share_the_brand_and_differ_to_the_eye() -> None:
    families = _families(make_products(60, 1000))
    assert len(families) >= 10
    for members in families:
        assert len({(p.brand, p.article, p.shape) for p in members}) == 1
        for one, other in combinations(members, 2):
            first, second = (np.asarray(shop_picture(p, 128), float) for p in (one, other))
            clearly = (np.abs(first - second).max(axis=-1) > 40).mean()
            assert clearly > 0.003, f"{one.title} and {other.title} look the same"


def test_siblings_look_more_alike_than_strangers() -> None:
    products = make_products(60, 1000)
    seen = {p: np.asarray(sprite(p, 1, 96).resize((64, 64)), float) for p in products}

    def apart(one: Product, other: Product) -> float:
        return float(np.abs(seen[one] - seen[other]).mean())

    siblings = [apart(*pair) for family in _families(products) for pair in combinations(family, 2)]
    strangers = [apart(products[k], products[(k + 29) % 60]) for k in range(60)]
    assert np.median(siblings) < 0.5 * np.median(strangers)


def test_a_photograph_is_decided_by_its_generator() -> None:
    products = make_products(12, 1000)

    def taken(seed: int) -> bytes:
        return photograph(products[3], products, np.random.default_rng(seed), size=96).tobytes()

    assert taken(1) == taken(1)
    assert taken(1) != taken(2)


def test_a_homography_carries_its_corners() -> None:
    source = [(0.0, 0.0), (4.0, 0.0), (4.0, 3.0), (0.0, 3.0)]
    target = [(1.0, 2.0), (7.0, 1.0), (6.0, 8.0), (0.0, 5.0)]
    matrix = homography(source, target)
    for (x, y), expected in zip(source, target, strict=True):
        u, v, w = matrix @ (x, y, 1)
        assert (u / w, v / w) == pytest.approx(expected)


def test_a_data_set_is_read_back_with_every_file_and_clips_of_five(tmp_path: Path) -> None:
    make_dataset(tmp_path, products=3, photographs=7, seed=1000, split="test", size=96)
    shop = read_shop(tmp_path)
    takes = read_takes(tmp_path, shop)
    assert [item.class_id for item in shop] == ["0", "1", "2"]
    assert [len(take.photographs) for take in takes] == [5, 2] * 3
    assert all(take.clip_id.startswith(f"test-00{take.item.class_id}-") for take in takes)
    for path in [item.picture for item in shop] + [p for t in takes for p in t.photographs]:
        with Image.open(path) as picture:
            assert picture.format == "JPEG"
            picture.load()


def test_a_data_set_does_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    wanted = {"products": 8, "photographs": 1, "seed": 1000, "size": 64}
    seen: list[tuple[int, int]] = []
    make_dataset(
        tmp_path / "one", **wanted, processes=1, progress=lambda *state: seen.append(state)
    )
    make_dataset(tmp_path / "two", **wanted, processes=2)
    assert seen == [(done, 8) for done in range(1, 9)]
    assert _tree(tmp_path / "one") == _tree(tmp_path / "two")


def test_splits_of_a_seed_show_the_same_shop_in_other_photographs(tmp_path: Path) -> None:
    for split in ("train", "test"):
        make_dataset(tmp_path, products=2, photographs=2, seed=1000, split=split, size=64)
    shop = read_shop(tmp_path)
    shown = [read_takes(tmp_path, shop, split) for split in ("train", "test")]
    first, second = ([p.read_bytes() for t in takes for p in t.photographs] for takes in shown)
    assert len(first) == len(second) == 4
    assert not set(first) & set(second)


@pytest.mark.parametrize(
    "wrong", [{"products": 0}, {"photographs": 0}, {"size": 10}, {"split": "holiday"}]
)
def test_nonsense_is_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(DemoError):
        make_dataset(tmp_path, **({"products": 1, "photographs": 1, "seed": 0} | wrong))
    assert not list(tmp_path.iterdir())
