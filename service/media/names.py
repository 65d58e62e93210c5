"""Which product a picture shows, by its file's name: `cola.jpg`, `cola__2.jpg`, `cola/front.jpg`.

For folders of pictures and for archives of them.
"""

from __future__ import annotations

import re
from pathlib import PurePath

PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})


def is_picture(path: PurePath) -> bool:
    """By its name alone; hidden files are none."""
    return path.suffix.lower() in PICTURES and not path.name.startswith(".")


def product_of(path: PurePath) -> str:
    """`path` is relative to the shop's folder: a sub-folder names its product, else the file."""
    return path.parts[-2] if len(path.parts) > 1 else re.sub(r"__\d+$", "", path.stem)
