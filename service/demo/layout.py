"""The folder of a shop and its photographs, read and written.

`classes.csv` (class_id, class_name, iconic_image) lists the products and their shop pictures;
`train.csv`, `val.csv`, `test.csv` (image, class_id, clip_id) list photographs of them, of which
those with the same clip_id make one clip. Further columns are left alone. Knows nothing of pixels.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from service.errors import DemoError

CLASSES = ("class_id", "class_name", "iconic_image")
PHOTOGRAPHS = ("image", "class_id", "clip_id")
DISTRACTORS = ("image", "category")

_PICTURES = {".jpg", ".jpeg", ".png", ".webp"}


@dataclass(frozen=True)
class ShopItem:
    """A product of the shop."""

    class_id: str
    name: str
    picture: Path

    @property
    def title(self) -> str:
        """The name as a person would write it."""
        return self.name.replace("-", " ")


@dataclass(frozen=True)
class Take:
    """The photographs that make one clip, in order, and the product they show."""

    clip_id: str
    item: ShopItem
    photographs: tuple[Path, ...]


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a CSV file with a heading."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file. Raises DemoError if it is missing or lacks one of `columns`."""
    if not path.is_file():
        raise DemoError(f"{path} does not exist; a shop's folder holds {_wanted(path, columns)}")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [name for name in columns if name not in (reader.fieldnames or [])]
            if missing:
                raise DemoError(
                    f"{path} lacks the column{'s' * (len(missing) > 1)} {', '.join(missing)}; "
                    f"it should be {_wanted(path, columns)}"
                )
            rows = [{name: row[name] or "" for name in columns} for row in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DemoError(f"{path} is not a CSV file in UTF-8: {error}") from error
    if not rows:
        raise DemoError(f"{path} has a heading but no rows")
    return rows


def _wanted(path: Path, columns: Sequence[str]) -> str:
    return f"{path.name} with the columns {', '.join(columns)}"


def _file(folder: Path, row: Mapping[str, str], column: str, table: str) -> Path:
    path = folder / row[column]
    if not path.is_file():
        raise DemoError(f"{folder / table} names {row[column]}, which is not in {folder}")
    return path


def read_shop(folder: Path) -> list[ShopItem]:
    """The products of `folder`, in the order of its classes.csv. Raises DemoError."""
    if not folder.is_dir():
        raise DemoError(f"the folder {folder} does not exist")
    rows = read_table(folder / "classes.csv", CLASSES)
    for column in ("class_id", "class_name"):
        values = [row[column] for row in rows]
        if len(set(values)) < len(values):
            raise DemoError(f"{folder / 'classes.csv'}: a {column} is there twice")
    return [
        ShopItem(
            class_id=row["class_id"],
            name=row["class_name"],
            picture=_file(folder, row, "iconic_image", "classes.csv"),
        )
        for row in rows
    ]


def read_takes(folder: Path, shop: Sequence[ShopItem], split: str = "test") -> list[Take]:
    """The clips to film from the photographs of `split`, in the file's order. Raises DemoError."""
    table = f"{split}.csv"
    items = {item.class_id: item for item in shop}
    takes: dict[str, tuple[ShopItem, list[Path]]] = {}
    for row in read_table(folder / table, PHOTOGRAPHS):
        item = items.get(row["class_id"])
        if item is None:
            raise DemoError(f"{folder / table}: no product {row['class_id']} in classes.csv")
        known, photographs = takes.setdefault(row["clip_id"], (item, []))
        if known is not item:
            raise DemoError(f"{folder / table}: clip {row['clip_id']} shows two products")
        photographs.append(_file(folder, row, "image", table))
    return [Take(clip_id, item, tuple(paths)) for clip_id, (item, paths) in takes.items()]


def read_distractors(folder: Path) -> list[Path]:
    """All pictures of a folder: those its images.csv lists, or every picture in its tree."""
    if not folder.is_dir():
        raise DemoError(f"the folder {folder} does not exist")
    if (folder / "images.csv").is_file():
        rows = read_table(folder / "images.csv", DISTRACTORS)
        return [_file(folder, row, "image", "images.csv") for row in rows]
    pictures = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _PICTURES)
    if not pictures:
        raise DemoError(f"no pictures in {folder}")
    return pictures


def spread(takes: Sequence[Take], count: int) -> list[Take]:
    """`count` clips evenly spread over the products, each product's first clips first."""
    rounds: dict[str, int] = {}
    keyed = []
    for position, take in enumerate(takes):
        turn = rounds.get(take.item.class_id, 0)
        rounds[take.item.class_id] = turn + 1
        keyed.append((turn, position, take))
    keyed.sort(key=lambda entry: entry[:2])
    products = len(rounds)
    if count >= products:
        chosen = keyed[:count]
    else:
        chosen = [keyed[k * products // count] for k in range(count)]
    return [take for _, _, take in sorted(chosen, key=lambda entry: entry[1])]
