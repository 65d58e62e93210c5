"""What `--data NAME=FOLDER` gives: folders of a recipe's sources, opened while a bar tells.

Pictures are kept a little larger than the model sees them, so that views may be cut out of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from training.configs import AnyRecipe, Recipe, judged_layout
from training.data.errors import DataError
from training.data.opening import Track, layout_of, open_judging, open_training
from training.data.sets import JudgedSet, TrainingSet
from training.data.wrong_lines import DEFAULT_LIMIT
from training.models.looking import frame_size

MARGIN = 8 / 7  # sides of what is kept over those of what the model sees

DataOption = Annotated[
    list[str], typer.Option("--data", metavar="NAME=FOLDER", help="A source's pictures.")
]
LimitOption = Annotated[
    int, typer.Option(min=0, help="Wrong lines that are borne; of clips without pictures also 5 %.")
]


def given_folders(data: list[str]) -> dict[str, Path]:
    """By the names of sources. Raises DataError."""
    named = {}
    for item in data:
        name, equals, folder = item.partition("=")
        if not equals:
            raise DataError(f"{item!r} is not NAME=FOLDER")
        named[name] = Path(folder)
    return named


def training_folders(recipe: AnyRecipe, data: list[str]) -> dict[str, Path]:
    """One for each of the recipe's sources, at least. Raises DataError."""
    folders = given_folders(data)
    if missing := [source.name for source in recipe.sources if source.name not in folders]:
        raise DataError(f"no --data for {', '.join(missing)}: --data {missing[0]}=FOLDER")
    return folders


def training_sets(
    recipe: AnyRecipe, folders: Mapping[str, Path], bars: Progress, limit: int = DEFAULT_LIMIT
) -> dict[str, TrainingSet]:
    """By the names of the recipe's sources. Raises DataError, also where more than `limit` lines
    of annotations are wrong."""
    return {
        source.name: open_training(
            source,
            folders[source.name],
            _side(recipe),
            _track(folders[source.name], bars),
            limit=limit,
        )
        for source in recipe.sources
    }


def judged_set(
    recipe: AnyRecipe,
    folders: Mapping[str, Path],
    split: str,
    bars: Progress,
    side: int | None = None,
) -> JudgedSet:
    """`val` or `test` of the source that the recipe is judged on; photographs have sides of `side`
    pixels, by default as in training. Raises DataError."""
    folder = folders.get(recipe.validate_on)
    if folder is None:
        raise DataError(f"no --data for {recipe.validate_on}: --data {recipe.validate_on}=FOLDER")
    size = max(_side(recipe), side or 0)
    return open_judging(judged_layout(recipe), folder, split, size, _track(folder, bars))


def any_set(folder: Path, split: str, image_size: int, bars: Progress, side: int) -> JudgedSet:
    """`val` or `test` of a folder of any layout, for a model that sees `image_size` pixels of
    frames of `side`. Raises DataError."""
    size = max(_kept(image_size), side)
    return open_judging(layout_of(folder), folder, split, size, _track(folder, bars))


def _kept(image_size: int) -> int:
    return round(image_size * MARGIN)


def _side(recipe: AnyRecipe) -> int:
    """Of what training reads: where frames are looked at first, the larger ones that this takes."""
    if isinstance(recipe, Recipe) and recipe.of_found_frames:
        return frame_size(recipe.image_size, closer=recipe.looks_closer)
    return _kept(recipe.image_size)


def _track(folder: Path, bars: Progress) -> Track:
    return lambda paths: bars.track(paths, description=f"reading {folder.name}")
