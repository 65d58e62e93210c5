"""`lpr index` and `lpr recognize` against a running service, as a person would use them."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from service.bundle_commands import _show as show_bundles
from service.cli import app
from service.client import Client
from tests.integration.material import Shop

NOBODY = "http://127.0.0.1:9"


def lpr(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def indexed(client: Client, shop_id: str) -> dict[str, tuple[str | None, int]]:
    return {p["product_id"]: (p["title"], len(p["images"])) for p in client.products(shop_id)}


@pytest.fixture
def shop_id() -> str:
    return uuid.uuid4().hex


def test_a_folder_named_by_product(
    client: Client, shop: Shop, shop_id: str, tmp_path: Path
) -> None:
    jpegs = list(shop.pictures.values())
    (tmp_path / "cola.jpg").write_bytes(jpegs[0])
    (tmp_path / "tea__1.jpg").write_bytes(jpegs[1])
    (tmp_path / "tea__2.jpg").write_bytes(jpegs[2])
    (tmp_path / "milk__fresh.JPG").write_bytes(jpegs[3])
    (tmp_path / "juice").mkdir()
    (tmp_path / "juice" / "front.jpg").write_bytes(jpegs[4])
    (tmp_path / "juice" / "back.jpg").write_bytes(jpegs[5])
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / ".DS_Store").write_text("nobody's business")
    (tmp_path / "juice" / "old").mkdir()
    (tmp_path / "juice" / "old" / "side.jpg").write_bytes(jpegs[5])
    done = lpr("index", tmp_path, "--shop", shop_id, "--url", client.base_url)
    assert done.exit_code == 0, done.output
    assert "4 of 4 products indexed" in done.stdout
    assert "juice/old/side.jpg, notes.txt." in " ".join(done.stderr.split())
    assert indexed(client, shop_id) == {
        "cola": (None, 1),
        "tea": (None, 2),
        "milk__fresh": (None, 1),
        "juice": (None, 2),
    }


def test_a_csv(client: Client, shop: Shop, shop_id: str, tmp_path: Path) -> None:
    for name, jpeg in shop.pictures.items():
        (tmp_path / f"{name}.jpg").write_bytes(jpeg)
    table = tmp_path / "shop.csv"
    table.write_text(
        "product_id,title,image\n"
        "a,Tea: 50 % off,product-0.jpg\n"
        "a,,product-1.jpg\n"
        "b,,product-2.jpg\n"
    )
    done = lpr("index", table, "--shop", shop_id, "--url", client.base_url)
    assert done.exit_code == 0, done.output
    assert indexed(client, shop_id) == {"a": ("Tea: 50 % off", 2), "b": (None, 1)}


def test_what_fails_is_named_and_the_rest_is_indexed(
    client: Client, shop: Shop, shop_id: str, tmp_path: Path
) -> None:
    (tmp_path / "good.jpg").write_bytes(shop.pictures["product-0"])
    (tmp_path / "bad.jpg").write_bytes(b"not a picture")
    done = lpr("index", tmp_path, "--shop", shop_id, "--url", client.base_url)
    assert done.exit_code == 1
    assert "1 of 2 products indexed" in done.stdout
    assert "bad: " in done.stderr
    assert "image-" in done.stderr
    assert indexed(client, shop_id).keys() == {"good"}


def test_of_several_pictures_the_one_that_fails_is_named(
    client: Client, shop: Shop, shop_id: str, tmp_path: Path
) -> None:
    (tmp_path / "tea__1.jpg").write_bytes(shop.pictures["product-0"])
    (tmp_path / "tea__2.jpg").write_bytes(b"not a picture")
    done = lpr("index", tmp_path, "--shop", shop_id, "--url", client.base_url)
    assert done.exit_code == 1
    assert f"tea: {tmp_path / 'tea__2.jpg'}: " in done.stderr


def test_a_picture_the_csv_names_and_nobody_has(
    client: Client, shop_id: str, tmp_path: Path
) -> None:
    (tmp_path / "shop.csv").write_text("product_id,image\na,gone.jpg\n")
    done = lpr("index", tmp_path / "shop.csv", "--shop", shop_id, "--url", client.base_url)
    assert done.exit_code == 1
    assert "gone.jpg" in done.stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("image\nx.jpg\n", "lacks product_id"),
        (None, "does not exist"),
        ("product_id,image\n", "no pict"),
        ("product_id,image\na,a.jpg\nb,\n", "line 3: lacks product_id or image"),
    ],
)
def test_a_shop_that_cannot_be_read(tmp_path: Path, content: str | None, said: str) -> None:
    table = tmp_path / "shop.csv"
    if content is not None:
        table.write_text(content)
    done = lpr("index", table, "--shop", "s", "--url", NOBODY)
    assert done.exit_code == 1
    assert said in done.stderr


@pytest.mark.parametrize(
    ("command", "default"),
    [
        (["index"], "[default: as LPR_HOST and LPR_PORT say]"),
        (["keys", "create"], "[default: never]"),
        (["demo"], "[default: temporary]"),
        (["bench", "patches"], "[default: an eighth, a quarter, half]"),
    ],
    ids=["index", "keys", "demo", "patches"],
)
def test_help_tells_defaults_that_are_words(command: list[str], default: str) -> None:
    told = lpr(*command, "--help").stdout.replace("│", " ")
    assert default in " ".join(told.split())


def test_clips_are_told_as_tables(client: Client, shop: Shop, shop_id: str, tmp_path: Path) -> None:
    client.put_product(shop_id, "[red]cola", [shop.pictures["product-0"]], title="Cola [1 l]")
    clips = []
    for name in ("one.mp4", "two.mp4"):
        clips.append(tmp_path / name)
        clips[-1].write_bytes(shop.clips["product-0"])
    done = lpr("recognize", *clips, "--shop", shop_id, "--url", client.base_url)
    assert done.exit_code == 0, done.output
    assert done.stdout.count("[red]cola") >= 2
    assert done.stdout.count("Cola [1 l]") == 2


def test_long_ids_are_told_whole(
    client: Client,
    shop: Shop,
    shop_id: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    product_id = "very-long-" * 12
    client.put_product(shop_id, product_id, [shop.pictures["product-0"]], title="Cola")
    (tmp_path / "c.mp4").write_bytes(shop.clips["product-0"])
    done = lpr("recognize", tmp_path / "c.mp4", "--shop", shop_id, "--url", client.base_url)
    assert column(done.stdout, 1) == product_id
    bundle_id = f"rice-grocery-reading-{'0' * 80}"
    bundle = {"bundle": bundle_id, "role": "coming", "progress": {"done": 1, "of": 2}}
    show_bundles({"bundles": [bundle | {"model": {"recipe": "grocery"}}], "broken": {}})
    assert column(capsys.readouterr().out, 0) == bundle_id


def column(table: str, place: int) -> str:
    """What stands in a column of a table's one row, over all its lines."""
    return "".join(
        line.split("│")[1 + place].strip() for line in table.splitlines() if line[0] == "│"
    )


def test_json_is_the_services_own_answer(
    client: Client, shop: Shop, shop_id: str, tmp_path: Path
) -> None:
    client.put_product(shop_id, "p", [shop.pictures["product-0"]])
    (tmp_path / "c.mp4").write_bytes(shop.clips["product-0"])
    done = lpr(
        "recognize", tmp_path / "c.mp4", "--shop", shop_id, "--url", client.base_url, "--json"
    )
    (line,) = done.stdout.splitlines()
    assert json.loads(line)["candidates"][0]["product_id"] == "p"


def test_a_bad_clip_does_not_keep_the_next_one_from_being_told(
    client: Client, shop: Shop, shop_id: str, tmp_path: Path
) -> None:
    client.put_product(shop_id, "p", [shop.pictures["product-0"]])
    (tmp_path / "bad.mp4").write_bytes(b"")
    (tmp_path / "good.mp4").write_bytes(shop.clips["product-0"])
    done = lpr(
        "recognize",
        tmp_path / "bad.mp4",
        tmp_path / "gone.mp4",
        tmp_path / "good.mp4",
        "--shop",
        shop_id,
        "--url",
        client.base_url,
    )
    assert done.exit_code == 1
    assert "clip-empty" in done.stderr
    assert "gone.mp4" in done.stderr
    assert "good.mp4" in done.stdout.replace("\n", "")  # a long path is wrapped


@pytest.mark.parametrize("command", ["index", "recognize"])
def test_nobody_there_is_said_plainly(shop: Shop, tmp_path: Path, command: str) -> None:
    (tmp_path / "c.jpg").write_bytes(shop.pictures["product-0"])
    what = tmp_path if command == "index" else tmp_path / "c.jpg"
    done = lpr(command, what, "--shop", "s", "--url", NOBODY)
    assert done.exit_code == 1
    assert f"no service answers at {NOBODY}" in done.stderr
    assert "Traceback" not in done.output


@pytest.mark.parametrize("key", ["schlüssel", "two words", "line\nbreak"])
def test_a_key_that_cannot_be_sent_is_said(tmp_path: Path, key: str) -> None:
    done = lpr("recognize", tmp_path / "c.mp4", "--shop", "s", "--url", NOBODY, "--key", key)
    assert done.exit_code == 1
    assert "a key is visible ASCII characters only" in done.stderr
