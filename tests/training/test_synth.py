"""LPR-Synth: that it is LPR4M's layout, the same every time, truthful about what it shows, and hard
in the ways it says."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from training.cli import app
from training.data.errors import DataError
from training.data.lpr4m import LprData, open_lpr
from training.data.records import Box, duration_type, scale_type
from training.data.synthetic.articles import Article, draw_article
from training.data.synthetic.catalogue import (
    CATEGORIES,
    Shown,
    category_shares,
    make_article,
    make_shop,
)
from training.data.synthetic.film import Props, Stage, film, make_stage
from training.data.synthetic.livestream import Livestream
from training.data.synthetic.presenter import make_presenter
from training.data.synthetic.room import make_room
from training.data.synthetic.script import write_script
from training.data.synthetic.shapes import shape_of
from training.data.synthetic.speech import speak
from training.data.synthetic.sprites import corners, paste, placed, pyramid, turned
from training.data.synthetic.writer import Synth, plans, write_synth

SMALL = Synth(clips=24, seed=5, size=96, frames=5, shop_size=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synth")
    write_synth(out, SMALL)
    return out


@pytest.fixture(scope="module")
def data(folder: Path) -> LprData:
    return open_lpr(folder, "lpr4m")


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.stat().st_size and ".lpr" not in path.parts
    }


def stage(rng: np.random.Generator) -> Stage:
    stock = [draw_article(make_article(c, rng)) for c in (2, 6)]
    room = make_room(96, 170, stock, rng, crowded=0.5)
    presenter = make_presenter(rng, draw_article(make_article(0, rng), worn=True))
    return make_stage(room, presenter, rng)


def test_the_same_seed_writes_the_same_bytes_however_many_processes(
    folder: Path, tmp_path: Path
) -> None:
    told: list[int] = []
    write_synth(tmp_path, SMALL, processes=2, done=told.append)
    assert digests(tmp_path) == digests(folder)
    assert sum(told) == SMALL.clips


def test_another_seed_writes_another_data_set(folder: Path, tmp_path: Path) -> None:
    write_synth(tmp_path, Synth(2, seed=6, size=96, frames=2, shop_size=3), shards="folders")
    other = open_lpr(tmp_path, "lpr4m")
    assert not set(digests(tmp_path).values()) & set(digests(folder).values())
    assert other.clips[0].image in other.pictures


def test_the_lpr4m_reader_finds_everything(data: LprData) -> None:
    clips = [data.clips[row] for row in range(len(data.clips))]
    assert (len(clips), len(data.test.queries), data.wrong.count) == (22, 2, 0)
    names = [name for clip in clips for name in (*clip.frames, clip.image)]
    assert all(name in data.pictures for name in names)
    for query in data.test.queries:
        shop = data.test.galleries[query.live_id]
        assert len(shop) >= SMALL.shop_size
        assert set(query.truth) <= {picture.image_id for picture in shop}
        assert all(picture.reference in data.pictures for picture in shop)
        assert all(picture.image_id in data.test.titles for picture in shop)
    shown = cv2.imdecode(np.frombuffer(data.pictures.read(clips[0].frames[0]), np.uint8), 1)
    assert shown.shape == (170, 96, 3)


def test_types_follow_from_the_boxes(data: LprData, folder: Path) -> None:
    lines = (folder / "annotations" / "other_boxes_training.jsonl").read_text().splitlines()
    others = {told["clip"]: told["boxes"] for told in map(json.loads, lines)}
    for row in range(len(data.clips)):
        clip = data.clips[row]
        boxes = [boxes[0] if boxes else None for boxes in clip.boxes]
        assert (clip.scale, clip.duration) == (scale_type(boxes), duration_type(boxes))
        assert len(others[clip.clip_id]) == len(clip.frames)
        every = [box for frame in others[clip.clip_id] for box in frame]
        every += [box for box in boxes if box]
        assert all(0 <= b[0] < b[2] <= 1 and 0 <= b[1] < b[3] <= 1 for b in every)


def test_boxes_lie_where_the_product_is() -> None:
    """Against the same film with the product painted over: what differs is the product."""
    rng = np.random.default_rng(0)
    here = stage(rng)
    article, other = draw_article(make_article(13, rng)), draw_article(make_article(3, rng))
    script = write_script(10, ("held",), rng)
    blank = draw_article(article.product)
    levels = tuple(
        np.dstack((255 - level[..., :3], level[..., 3])) for level in blank.sprite.levels
    )
    blank.sprite.__dict__["levels"] = tuple(np.minimum(lv, lv[..., 3:]) for lv in levels)
    shown = film(here, script, Props(article, article, other), np.random.default_rng(1))
    painted = film(here, script, Props(blank, blank, other), np.random.default_rng(1))
    checked = 0
    for frame, again, box in zip(shown.frames, painted.frames, shown.boxes, strict=True):
        one, two = (cv2.imdecode(np.frombuffer(f, np.uint8), 1).astype(int) for f in (frame, again))
        changed = np.abs(one - two).sum(axis=2) > 90
        if box is None:
            assert changed.mean() < 0.02
            continue
        ys, xs = np.nonzero(changed)
        seen = np.percentile(xs, (3, 97)) / 96, np.percentile(ys, (3, 97)) / 170
        assert box.left == pytest.approx(seen[0][0], abs=0.09)
        assert box.right == pytest.approx(seen[0][1], abs=0.09)
        assert box.top == pytest.approx(seen[1][0], abs=0.09)
        assert box.bottom == pytest.approx(seen[1][1], abs=0.09)
        checked += 1
    assert checked >= 1


def test_every_category_can_be_drawn_in_every_cut() -> None:
    rng = np.random.default_rng(3)
    assert len(CATEGORIES) == 34
    for number, category in enumerate(CATEGORIES):
        for cut in ((0.0, 0.0, 0.0), (0.5, 1.0, 0.45), (1.0, 0.0, 1.0)):
            shape = shape_of(category.shape, cut)
            assert 0.3 < shape.aspect < 4
        article = draw_article(make_article(number, rng))
        pixels = article.sprite.levels[0]
        assert (pixels[..., 3] > 0).mean() > 0.1, category.name
        assert (pixels[..., :3] <= pixels[..., 3:]).all(), "colours are premultiplied"


def differs(one: Article, other: Article) -> bool:
    """More than 1.5 % of what is drawn, clearly; or their shape."""
    a, b = (article.sprite.levels[0].astype(int) for article in (one, other))
    if a.shape != b.shape:
        return True
    clearly = np.abs(a - b).sum(axis=2) > 100
    return bool(clearly.sum() > 0.015 * (a[..., 3] > 0).sum())


def test_shops_hold_near_duplicates_that_can_be_told_apart() -> None:
    shop = make_shop(300, np.random.default_rng(1))
    families = Counter(product.family for product in shop)
    assert sum(count for count in families.values() if count > 1) > 150
    assert len({product.image_id for product in shop}) == 300
    for family in [family for family, count in families.items() if count > 1][:20]:
        drawn = [(p.title, draw_article(p)) for p in shop if p.family == family]
        for number, (one, article) in enumerate(drawn):
            for other, another in drawn[:number]:
                assert differs(article, another), f"{one} looks like {other}"


def test_categories_have_a_long_tail() -> None:
    shares = category_shares()
    assert shares.sum() == pytest.approx(1)
    assert shares[:5].sum() > 0.5
    assert shares[-10:].sum() < 0.1


def test_clips_are_hard_in_all_of_the_papers_ways() -> None:
    training, _ = plans(Synth(clips=400, seed=2, size=64, shop_size=30))
    lives = [Livestream(replace(plan, clips=10)) for plan in training]
    clips = [made.clip for live in lives for made in live.clips()]
    for kind, wanted in (
        ("scale", {"small", "medium", "large"}),
        ("duration", {"short", "medium", "long"}),
        ("products", {"few", "medium", "abundant"}),
    ):
        counts = Counter(getattr(clip, kind) for clip in clips)
        assert set(counts) == wanted, kind


def test_where_much_stands_about_the_product_is_compared_with_another() -> None:
    rng = np.random.default_rng(4)
    scripts = [write_script(10, ("held",), rng, crowded=1.0) for _ in range(100)]
    beside = [[s.visible and s.other for s in script.shots] for script in scripts]
    assert 80 < sum(map(any, beside)) < 100
    for script, shots in zip(scripts, beside, strict=True):
        shown = sum(shot.visible for shot in script.shots)
        assert sum(shots) <= 0.6 * shown + 0.5, "longest is shown what is sold"
        assert sum(shot.other for shot in script.shots) <= shown
    never = [write_script(10, ("held",), rng) for _ in range(50)]
    assert not any(s.visible and s.other for script in never for s in script.shots)


def test_two_products_are_held_side_by_side() -> None:
    rng = np.random.default_rng(8)
    here = stage(rng)
    article, other = draw_article(make_article(13, rng)), draw_article(make_article(13, rng))
    script = next(
        script
        for script in (write_script(10, ("held",), rng, crowded=1.0) for _ in range(100))
        if sum(s.visible and s.other for s in script.shots) >= 3
    )
    made = film(here, script, Props(article, article, other), rng)
    both = [
        (box, others[0])  # what is held is noted before what stands about
        for shot, box, others in zip(script.shots, made.boxes, made.others, strict=True)
        if box and shot.other
    ]
    assert len(both) >= 2
    for box, held in both:
        assert abs(box.left + box.right - held.left - held.right) > 0.4, "middles are apart"


def test_rivals_are_held_alike_for_most_of_the_time_but_not_all() -> None:
    rng = np.random.default_rng(4)
    ways: tuple[Shown, ...] = ("held", "hung")
    scripts = [write_script(10, ways, rng, crowded=1.0, rivals=True) for _ in range(100)]
    alike = [script for script in scripts if script.alike]
    assert len(alike) > 80
    for script in alike:
        shown = sum(shot.visible for shot in script.shots)
        beside = sum(shot.visible and shot.other for shot in script.shots)
        assert 0.4 * shown - 0.5 <= beside <= 0.7 * shown + 0.5, "alone it is told apart"
        assert 0.75 < script.other_area / script.area < 1.2
        assert not script.both_hands


def test_by_speech_half_of_them_are_held_all_the_while() -> None:
    rng = np.random.default_rng(4)
    scripts = [
        write_script(10, ("held",), rng, crowded=1.0, rivals=True, by_speech=True)
        for _ in range(100)
    ]
    undecided = [
        script
        for script in scripts
        if script.alike and all(shot.other for shot in script.shots if shot.visible)
    ]
    assert 30 < len(undecided) < 60, "no frame tells which is sold"


def test_a_livestream_has_such_clips_where_that_is_asked_for() -> None:
    """The rest of what is asked for is the same."""
    asked = Synth(clips=40, seed=1, size=64, shop_size=20, rivals=True)
    made = []
    for synth in (asked, replace(asked, by_speech=True)):
        [plan], _ = plans(synth)
        made.append([clip.others for clip in Livestream(replace(plan, clips=12)).clips()])
    assert made[0] != made[1]


def test_speech_tells_rivals_apart_and_nothing_else(tmp_path: Path) -> None:
    command = ["data", "synth", "--out", str(tmp_path / "out"), "--clips", "20", "--by-speech"]
    run = CliRunner().invoke(app, command)
    assert run.exit_code == 1
    assert "without rivals" in run.output
    assert not (tmp_path / "out").exists()


def test_the_full_test_has_110_livestreams_and_training_does_not_move_it() -> None:
    training, test = plans(Synth(clips=220_000, seed=0))
    assert len(test) == 110
    assert sum(plan.clips for plan in test) == 110 * 182
    assert sum(plan.clips for plan in training) == 220_000 - 110 * 182
    assert not {plan.number for plan in training} & {plan.number for plan in test}
    assert plans(Synth(clips=400_000, seed=0))[1] == test


def test_speech_mostly_names_the_product_with_errors() -> None:
    rng = np.random.default_rng(0)
    product, other = make_article(3, rng), make_article(6, rng)
    said = [speak(product, [other], rng) for _ in range(300)]
    whole = sum(product.noun in text for text in said)
    assert 120 < whole < 280, "neither never nor always"
    assert sum(other.noun in text for text in said) > 30
    assert any(text == "" for text in said)
    assert all("\t" not in text and "\n" not in text for text in said)


def test_sprites_land_where_they_are_placed() -> None:
    white = np.full((40, 20, 4), 255, np.uint8)
    sprite = pyramid(white)
    frame = np.zeros((60, 60, 3), np.uint8)
    paste(frame, sprite, placed(sprite, (30, 30), 10))
    assert frame[30, 30].tolist() == [255, 255, 255]
    assert frame[30, 22].tolist() == frame[15, 30].tolist() == [0, 0, 0]
    assert frame[22, 30].tolist() == [255, 255, 255]
    straight = corners(sprite, turned(sprite, (30, 30), 10, (0, 0, 0)))
    assert np.allclose(straight, [(25, 20), (35, 20), (35, 40), (25, 40)])
    aside = corners(sprite, turned(sprite, (30, 30), 10, (50, 0, 0)))
    assert np.ptp(aside[:, 0]) < 8, "turned away, it is narrower"


@pytest.mark.parametrize("wrong", [{"clips": 1}, {"size": 32}, {"shop_size": 1}, {"seed": -1}])
def test_nonsense_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(DataError, match="needs at least"):
        Synth(**{"clips": 10, "seed": 0, **wrong})


def test_the_command_makes_what_check_finds_whole(tmp_path: Path) -> None:
    out = tmp_path / "made"
    arguments = ["data", "synth", "--out", str(out), "--clips", "4", "--size", "64",
                 "--shop-size", "4", "--processes", "1"]  # fmt: skip
    made = CliRunner().invoke(app, arguments)
    assert made.exit_code == 0, made.output
    checked = CliRunner().invoke(app, ["data", "check", str(out), "--processes", "1"])
    told = json.loads(checked.stdout.splitlines()[-1])
    assert (told["layout"], told["clips"], told["test_clips"]) == ("lpr4m", 3, 1)
    assert (told["missing"], told["wrong_lines"]) == (0, 0)
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 1
    assert "not empty" in again.output


def test_a_relative_box_stays_and_a_box_of_pixels_is_scaled() -> None:
    assert Box(0.1, 0.2, 0.3, 0.4).relative(100, 200) == Box(0.1, 0.2, 0.3, 0.4)
    assert Box(10, 20, 30, 40).relative(100, 200) == Box(0.1, 0.1, 0.3, 0.2)
