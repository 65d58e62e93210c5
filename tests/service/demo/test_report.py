"""The figures, the session with a service, the picture: right from known answers."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops
from rich.console import Console

from service.client import ProblemError
from service.demo.figures import figures, row_of
from service.demo.film import film
from service.demo.layout import ShopItem, Take
from service.demo.picture import MOST_CARDS, Card, Headline, draw_picture
from service.demo.report import Outcome, draw, tell, write_json
from service.demo.session import SHOP, entries, index, recognise
from service.errors import DemoError
from service.media.clips import ClipDecoder
from service.settings import MediaSettings

Scored = tuple[str, float]


def _answer(
    ranked: list[Scored],
    *,
    decided: bool = True,
    confidence: float = 0.8,
    boxes: list[dict[str, Any] | None] | None = None,
) -> dict[str, Any]:
    """An answer with the candidates in that order, each with its coarse score."""
    return {
        "bundle": "tiny-000000000000",
        "decision": {"product_id": ranked[0][0], "confidence": confidence} if decided else None,
        "candidates": [
            {
                "product_id": name,
                "title": name,
                "confidence": confidence,
                "scores": {"coarse": coarse, "match": 0.0, "text": None},
            }
            for name, coarse in ranked
        ],
        "timings_ms": {
            "queue": 1.0, "decode": 50.0, "detect": 10.0, "encode": 30.0, "search": 2.0,
            "match": 3.0, "total": 98.0,
        },
        "clip": {"duration_s": 0.5, "frames": 6, "boxes": boxes or []},
    }  # fmt: skip


def test_figures_of_known_answers() -> None:
    filler = [(f"x{k}", 0.1) for k in range(9)]
    rows = [
        # Right, and put first by reranking alone.
        row_of("c0", "a", _answer([("a", 0.5), ("b", 0.6)]), 100),
        # Wrong and decided, the truth second by the score and first by the coarse score.
        row_of("c1", "a", _answer([("b", 0.3), ("a", 0.7)]), 100),
        # Wrong, undecided, the truth tenth.
        row_of("c2", "a", _answer([*filler, ("a", 0.0)], decided=False), 120),
        # The truth is not among the candidates.
        row_of("c3", "z", _answer([("a", 0.5)], decided=False), 180),
    ]
    told = figures(rows)
    assert told.clips == 4
    assert (told.r1, told.r5, told.r10) == (0.25, 0.5, 0.75)
    assert told.coarse_r1 == 0.25
    assert told.undecided == 0.5
    assert told.decision_precision == 0.5
    assert told.median_ms["decode"] == 50
    assert told.median_wall_ms == 110
    # 10 %, 10 %, 25 %, 50 % of the four waits: the median lies between the second and the third.
    assert told.outside == pytest.approx(0.175)


def test_nothing_decided_has_no_precision() -> None:
    told = figures([row_of("c", "a", _answer([("a", 1.0)], decided=False), 100)])
    assert told.decision_precision is None
    assert told.undecided == 1


def test_an_empty_shop_answers_nothing() -> None:
    answer = _answer([("a", 1.0)], decided=False) | {"candidates": []}
    row = row_of("c", "a", answer, 100)
    assert (row.answer, row.right, row.confidence) == (None, False, 0.0)


class _Service:
    """Stands for a service: keeps what it is given, answers what it was told to."""

    def __init__(self, answers: list[dict[str, Any]] | None = None, refuses: str = "") -> None:
        self.products: dict[str, str] = {}
        self.calls: list[str] = []
        self._answers = iter(answers or [])
        self._refuses = refuses

    def delete_shop(self, shop_id: str) -> None:
        self.calls.append(f"delete {shop_id}")
        raise ProblemError(404, {"title": "No such shop"})

    def put_product(self, shop_id: str, product_id: str, images: list[Path], title: str) -> None:
        if product_id == self._refuses:
            raise ProblemError(422, {"detail": "too small"})
        self.products[product_id] = title

    def recognize(self, shop_id: str, clip: bytes, top_k: int, *, detect: bool) -> dict[str, Any]:
        self.calls.append(f"recognize {shop_id} {clip.decode()}")
        return next(self._answers)


@pytest.fixture
def shop(tmp_path: Path) -> list[ShopItem]:
    items = []
    for k, colour in enumerate([(200, 40, 40), (40, 160, 60), (40, 60, 200)]):
        path = tmp_path / f"shop{k}.jpg"
        Image.new("RGB", (60, 90), colour).save(path)
        items.append(ShopItem(str(k), f"Product-{k}", path))
    return items


def test_the_shop_is_filled_anew_with_products_and_distractors(shop: list[ShopItem]) -> None:
    service = _Service()
    seen: list[tuple[int, int]] = []
    sent = entries(shop, [Path("hat/x.jpg")])
    index(service, sent, lambda *state: seen.append(state))  # type: ignore[arg-type]
    assert service.calls == [f"delete {SHOP}"]
    assert service.products == {
        "Product-0": "Product 0",
        "Product-1": "Product 1",
        "Product-2": "Product 2",
        "distractor-00000": "distractor hat",
    }
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_refused_picture_is_named(shop: list[ShopItem]) -> None:
    with pytest.raises(DemoError, match=r"shop1\.jpg was refused: too small"):
        index(_Service(refuses="Product-1"), entries(shop, []))  # type: ignore[arg-type]


def test_clips_are_sent_one_by_one_and_noted(shop: list[ShopItem], tmp_path: Path) -> None:
    takes, clips = [], []
    for k, item in enumerate(shop[:2]):
        clips.append(tmp_path / f"c{k}.mp4")
        clips[-1].write_bytes(f"clip{k}".encode())
        takes.append(Take(f"c{k}", item, ()))
    answers = [_answer([("Product-0", 0.9)]), _answer([("Product-0", 0.9), ("Product-1", 0.8)])]
    service = _Service(answers)
    rows = recognise(service, takes, clips)  # type: ignore[arg-type]
    assert service.calls == [f"recognize {SHOP} clip0", f"recognize {SHOP} clip1"]
    assert [(row.clip_id, row.truth, row.answer, row.right) for row in rows] == [
        ("c0", "Product-0", "Product-0", True),
        ("c1", "Product-1", "Product-0", False),
    ]
    assert all(row.wall_ms > 0 for row in rows)


@pytest.fixture
def outcome(shop: list[ShopItem], tmp_path: Path) -> Outcome:
    """One clip right, one wrong, one right but undecided."""
    photograph = shop[0].picture
    clips = [
        film([photograph], tmp_path / f"{k}.mp4", seed=k, seconds=0.5, shorter=64) for k in range(3)
    ]
    takes = [Take(f"c{k}", item, (photograph,)) for k, item in enumerate(shop)]
    answers = [
        _answer([("Product-0", 0.9)]),
        _answer([("Product-2", 0.9), ("Product-1", 0.8)]),
        _answer([("Product-2", 0.9)], decided=False, confidence=0.3),
    ]
    together = zip(takes, answers, strict=True)
    rows = [row_of(take.clip_id, take.item.name, answer, 110) for take, answer in together]
    return Outcome("tiny-000000000000", shop, 7, takes, clips, rows)


def test_the_table_and_the_summary_tell_what_happened(outcome: Outcome) -> None:
    console = Console(record=True, width=120, file=io.StringIO())
    tell(console, outcome)
    told = console.export_text()
    assert "✓ Product 0" in told
    assert "✗ Product 2" in told
    assert "10 products" in told
    assert "66.7 % · 100.0 % · 100.0 %" in told
    assert "50.0 %; undecided 33.3 %" in told
    assert "outside decode, detect, encode" in told


def test_the_json_file_has_figures_and_every_clip(outcome: Outcome, tmp_path: Path) -> None:
    out = tmp_path / "new" / "demo.json"
    write_json(outcome, out)
    told = json.loads(out.read_text())
    assert told["figures"]["r1"] == pytest.approx(2 / 3)
    assert told["distractors"] == 7
    assert [(clip["clip_id"], clip["right"], clip["decision"]) for clip in told["clips"]] == [
        ("c0", True, "Product-0"),
        ("c1", False, "Product-2"),
        ("c2", True, None),
    ]


def _near(picture: Image.Image, colour: tuple[int, int, int]) -> int:
    """Pixels of just that colour."""
    return sum(count for count, value in picture.getcolors(1 << 24) or [] if value == colour)


def test_the_picture_marks_right_and_wrong(outcome: Outcome, tmp_path: Path) -> None:
    picture = _drawn(outcome, tmp_path / "new" / "demo.png")
    assert _near(picture, (30, 142, 90)) > 500
    assert _near(picture, (206, 60, 58)) > 500


def test_boxes_are_drawn_into_the_frames_they_are_of(outcome: Outcome, tmp_path: Path) -> None:
    """Of six frames that were looked at the second, fourth and sixth are shown."""
    box = {"box": [0.25, 0.5, 0.75, 1.0], "score": 0.9}
    without = _drawn(outcome, tmp_path / "without.png")
    for place, left in ((1, 0), (3, 1), (5, 2), (0, None)):
        boxes = [box if place == k else None for k in range(6)]
        row = row_of("c0", "Product-0", _answer([("Product-0", 0.9)], boxes=boxes), 110)
        rows = [row, *outcome.rows[1:]]
        picture = _drawn(replace(outcome, rows=rows), tmp_path / "with.png")
        changed = ImageChops.difference(without, picture).getbbox()
        if left is None:
            assert changed is None, "a frame that is not shown"
            continue
        x = 52 + 20 + left * (136 + 6)  # margin, padding, frame and seam
        assert changed == pytest.approx((x + 34, 170 + 68, x + 102, 170 + 136), abs=4)
        line = picture.getpixel((x + 35, 170 + 100))
        assert line == pytest.approx((255, 214, 0), abs=12)


def _drawn(outcome: Outcome, out: Path) -> Image.Image:
    with Image.open(draw(outcome, out, ClipDecoder(MediaSettings()))) as shown:
        return shown.convert("RGB")


def _card(shop: list[ShopItem], *, right: bool) -> Card:
    return Card(
        frames=(Image.new("RGB", (40, 40)),) * 3,
        answer="A product whose name is far too long for its card and has to be cut somewhere",
        answer_picture=shop[0].picture,
        truth="Another with anunbreakablyverylongname that goes on",
        truth_picture=shop[1].picture,
        right=right,
        decided=True,
        confidence=1.0,
    )


def test_a_picture_without_a_wrong_answer_has_no_cross(
    shop: list[ShopItem], tmp_path: Path
) -> None:
    headline = Headline("1 of 1", "line", "foot")
    out = draw_picture(tmp_path / "a.png", headline, [_card(shop, right=True)])
    with Image.open(out) as picture:
        assert _near(picture.convert("RGB"), (206, 60, 58)) == 0


def test_the_picture_shows_the_first_cards_only(shop: list[ShopItem], tmp_path: Path) -> None:
    heights = []
    for count in (2, MOST_CARDS, MOST_CARDS + 5):
        cards = [_card(shop, right=k % 2 == 0) for k in range(count)]
        out = draw_picture(tmp_path / "a.png", Headline("t", "l", "f"), cards)
        with Image.open(out) as picture:
            heights.append(picture.height)
    assert heights[0] < heights[1] == heights[2]
