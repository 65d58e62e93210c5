"""A shop on disk: which product each picture of a folder, or of a CSV, shows.

A folder names products by its files (`cola.jpg`, or `cola__1.jpg` and `cola__2.jpg` for several
pictures of one) or by its sub-folders (`cola/front.jpg`, `cola/back.jpg`); a CSV has the columns
product_id, title and image, one row a picture, paths relative to itself. Knows nothing of HTTP.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from service.media.names import is_picture, product_of


class FolderError(Exception):
    """The shop cannot be read; says why."""


@dataclass(frozen=True)
class ProductFiles:
    product_id: str
    title: str | None
    images: tuple[Path, ...]


def read_products(path: Path) -> list[ProductFiles]:
    """The products at `path`, a folder or a CSV file, in order. Raises FolderError."""
    if path.is_dir():
        items = _from_folder(path)
    elif path.is_file() and path.suffix.lower() == ".csv":
        items = _from_csv(path)
    elif path.exists():
        raise FolderError(f"{path} is neither a folder nor a .csv file")
    else:
        raise FolderError(f"{path} does not exist")
    if not items:
        raise FolderError(f"no pictures in {path}; they are JPEG, PNG or WebP files")
    return items


def left_out(path: Path) -> list[Path]:
    """Files of a folder that show none of its products: no pictures, or in a folder of a folder.
    Hidden ones need no word; a CSV leaves nothing out."""
    if not path.is_dir():
        return []
    taken = {image for product in _from_folder(path) for image in product.images}
    return sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and file not in taken and not _is_hidden(file.relative_to(path))
    )


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _from_folder(folder: Path) -> list[ProductFiles]:
    pictures: list[Path] = []
    for path in sorted(folder.iterdir()):
        pictures += sorted(path.iterdir()) if path.is_dir() else [path]
    return _items(
        (product_of(path.relative_to(folder)), "", path)
        for path in pictures
        if is_picture(path) and path.is_file()
    )


def _from_csv(file: Path) -> list[ProductFiles]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            reader = csv.DictReader(text)
            missing = {"product_id", "image"} - set(reader.fieldnames or ())
            if missing:
                raise FolderError(
                    f"{file} lacks {' and '.join(sorted(missing))} among its columns, which are "
                    "product_id, title and image"
                )
            rows = []
            for row in reader:
                if not row["product_id"] or not row["image"]:
                    raise FolderError(f"{file}, line {reader.line_num}: lacks product_id or image")
                rows.append((row["product_id"], row.get("title") or "", file.parent / row["image"]))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FolderError(f"{file} cannot be read: {error}") from error
    return _items(rows)


def _items(rows: Iterable[tuple[str, str, Path]]) -> list[ProductFiles]:
    """One item a product; the first title that says something is its own."""
    titles: dict[str, str] = {}
    images: dict[str, list[Path]] = {}
    for product_id, title, image in rows:
        images.setdefault(product_id, []).append(image)
        titles[product_id] = titles.get(product_id) or title
    return [
        ProductFiles(product_id, titles[product_id] or None, tuple(paths))
        for product_id, paths in images.items()
    ]
