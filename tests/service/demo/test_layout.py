"""The folder of a shop: read exactly, refused in words that say what to mend."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from service.demo.layout import (
    CLASSES,
    PHOTOGRAPHS,
    ShopItem,
    Take,
    read_distractors,
    read_shop,
    read_takes,
    spread,
    write_table,
)
from service.errors import DemoError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("iconic/a.jpg", "iconic/b.jpg", "test/1.jpg", "test/2.jpg", "test/3.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32)).save(tmp_path / name)
    write_table(
        tmp_path / "classes.csv",
        [*CLASSES, "description"],
        [
            (0, "Oat-Milk", "iconic/a.jpg", 'creamy, "mild"'),
            (1, "Soy-Milk", "iconic/b.jpg", ""),
        ],
    )
    write_table(
        tmp_path / "test.csv",
        PHOTOGRAPHS,
        [("test/1.jpg", 1, "c1"), ("test/2.jpg", 0, "c0"), ("test/3.jpg", 1, "c1")],
    )
    return tmp_path


def test_a_shop_and_its_clips_are_read(folder: Path) -> None:
    shop = read_shop(folder)
    assert [(i.name, i.title, i.picture.name) for i in shop] == [
        ("Oat-Milk", "Oat Milk", "a.jpg"),
        ("Soy-Milk", "Soy Milk", "b.jpg"),
    ]
    assert read_takes(folder, shop) == [
        Take("c1", shop[1], (folder / "test/1.jpg", folder / "test/3.jpg")),
        Take("c0", shop[0], (folder / "test/2.jpg",)),
    ]


@pytest.mark.parametrize(
    ("table", "content", "complaint"),
    [
        ("classes.csv", "class_id,class_name\n0,x\n", "lacks the column iconic_image"),
        ("classes.csv", ",".join(CLASSES) + "\n", "no rows"),
        ("classes.csv", ",".join(CLASSES) + "\n0,x,iconic/none.jpg\n", "iconic/none.jpg"),
        ("test.csv", "image,class_id,clip_id\ntest/1.jpg,7,c\n", "no product 7"),
        ("test.csv", "image,class_id,clip_id\ntest/9.jpg,0,c\n", "test/9.jpg"),
        ("test.csv", "image,class_id,clip_id\ntest/1.jpg,0,c\ntest/2.jpg,1,c\n", "two products"),
        ("test.csv", "image,class_id,clip_id\n\xff\xfe", "UTF-8"),
        ("classes.csv", None, "does not exist"),
        ("test.csv", None, "does not exist"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(
    folder: Path, table: str, content: str | None, complaint: str
) -> None:
    (folder / table).unlink()
    if content is not None:
        (folder / table).write_text(content, encoding="latin-1")
    with pytest.raises(DemoError, match=complaint):
        read_takes(folder, read_shop(folder))


def test_two_products_of_one_name_are_refused(folder: Path) -> None:
    rows = [(k, "Milk", "iconic/a.jpg") for k in (0, 1)]
    write_table(folder / "classes.csv", CLASSES, rows)
    with pytest.raises(DemoError, match="class_name is there twice"):
        read_shop(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DemoError, match="nowhere"):
        read_shop(tmp_path / "nowhere")
    with pytest.raises(DemoError, match="nowhere"):
        read_distractors(tmp_path / "nowhere")


def test_distractors_come_from_a_table_or_from_the_tree(folder: Path) -> None:
    (folder / "readme.txt").write_text("no picture")
    assert [str(path.relative_to(folder)) for path in read_distractors(folder)] == [
        "iconic/a.jpg",
        "iconic/b.jpg",
        "test/1.jpg",
        "test/2.jpg",
        "test/3.jpg",
    ]
    (folder / "images.csv").write_text("image,category\ntest/2.jpg,hat\n")
    assert read_distractors(folder) == [folder / "test/2.jpg"]


def _takes(counts: list[int]) -> list[Take]:
    items = [ShopItem(str(k), f"p{k}", Path("p")) for k in range(len(counts))]
    return [Take(f"{i.class_id}-{k}", i, ()) for i, n in zip(items, counts, strict=True)
            for k in range(n)]  # fmt: skip


def test_clips_are_spread_over_the_products() -> None:
    takes = _takes([3, 1, 2, 1, 5, 1])
    assert [t.clip_id for t in spread(takes, 3)] == ["0-0", "2-0", "4-0"]
    assert [t.clip_id for t in spread(takes, 6)] == ["0-0", "1-0", "2-0", "3-0", "4-0", "5-0"]
    assert [t.clip_id for t in spread(takes, 8)] == [
        "0-0", "0-1", "1-0", "2-0", "2-1", "3-0", "4-0", "5-0",
    ]  # fmt: skip
    assert spread(takes, 99) == takes
