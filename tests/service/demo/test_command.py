"""`lpr demo` and `lpr made` as typed: against a real service, and where they must refuse."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from service.demo.command import demo, made
from service.demo.layout import read_shop, read_takes
from service.demo.picture import Card, Headline, draw_picture

app = typer.Typer()
app.command()(demo)
app.command()(made)

runner = CliRunner()


@pytest.fixture
def shop_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    wanted = ["--products", "4", "--photographs", "2", "--seed", "1000"]
    result = runner.invoke(app, ["made", str(folder), *wanted, "--split", "test", "--size", "96"])
    assert result.exit_code == 0, result.output
    return folder


def test_made_writes_a_shop_that_can_be_read(shop_folder: Path) -> None:
    shop = read_shop(shop_folder)
    assert len(shop) == len(read_takes(shop_folder, shop)) == 4


def test_a_demo_runs_from_the_folder_to_the_picture(
    shop_folder: Path,
    tiny_bundle: Path,
    tmp_path: Path,
    cards: list[Card],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LPR_BUNDLE", str(tiny_bundle))
    distractors = tmp_path / "distractors" / "hat"
    distractors.mkdir(parents=True)
    Image.new("RGB", (40, 50), (90, 120, 30)).save(distractors / "a.jpg")
    picture, figures = tmp_path / "demo.png", tmp_path / "demo.json"
    wanted = ["--data", str(shop_folder), "--distractors", str(distractors.parent)]
    wanted += ["--clips", "2", "--out", str(picture), "--json", str(figures)]
    result = runner.invoke(app, ["demo", *wanted])
    assert result.exit_code == 0, result.output
    told = json.loads(figures.read_text())
    assert (told["products"], told["distractors"], told["figures"]["clips"]) == (4, 1, 2)
    assert told["bundle"].startswith("rice-tiny-random-")
    assert all(len(clip["ranking"]) == 5 for clip in told["clips"])
    assert "outside decode, detect, encode" in result.output
    with Image.open(picture) as shown:
        assert shown.width > 1000
    assert all(clip["boxes"] == [] and clip["frames"] == 10 for clip in told["clips"])
    assert [card.boxes for card in cards] == [(None, None, None)] * 2


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> list[Card]:
    """What a demo has drawn."""
    drawn: list[Card] = []

    def draw(out: Path, headline: Headline, cards: Sequence[Card]) -> Path:
        drawn.extend(cards)
        return draw_picture(out, headline, cards)

    monkeypatch.setattr("service.demo.report.draw_picture", draw)
    return drawn


def test_a_bundle_with_a_detector_shows_its_boxes(
    shop_folder: Path, tmp_path: Path, cards: list[Card], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="the training extra")
    from tests.contract.models import export_tiny, tiny_detector, tiny_rice

    sure = tiny_detector()._replace(threshold=0.0)
    monkeypatch.setenv("LPR_BUNDLE", str(export_tiny(tiny_rice(), tmp_path / "b", detector=sure)))
    picture, figures = tmp_path / "demo.png", tmp_path / "demo.json"
    wanted = ["--data", str(shop_folder), "--clips", "4"]
    wanted += ["--out", str(picture), "--json", str(figures)]
    result = runner.invoke(app, ["demo", *wanted])
    assert result.exit_code == 0, result.output
    clips = json.loads(figures.read_text())["clips"]
    assert all(len(clip["boxes"]) == clip["frames"] == 10 for clip in clips)
    shown = [tuple(clip["boxes"][place] for place in (1, 5, 8)) for clip in clips]
    assert [tuple(map(list, filter(None, card.boxes))) for card in cards] == shown

    result = runner.invoke(app, ["demo", *wanted, "--clips", "1", "--no-detect"])
    assert result.exit_code == 0, result.output
    assert not any(clip["boxes"] for clip in json.loads(figures.read_text())["clips"])


def test_a_demo_of_training_seeds_is_refused() -> None:
    """The model has seen those products."""
    result = runner.invoke(app, ["demo", "--seed", "999"])
    assert result.exit_code == 2
    assert "1000" in result.output


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--data", "nowhere"], "nowhere does not exist"),
        (["--clips", "many"], "--clips is a number"),
        (["--clips", "0"], "--clips is a number"),
    ],
)
def test_what_cannot_be_shown_is_said_in_one_line(options: list[str], complaint: str) -> None:
    result = runner.invoke(app, ["demo", *options])
    assert result.exit_code == 1
    assert complaint in result.output
    assert "Traceback" not in result.output
