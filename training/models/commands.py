"""`lpr-train init`, `import`, `verify`, `resize`, `average`: models before or after a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer

from training import checkpoint
from training.configs import Recipe
from training.evaluation.reference import TOLERANCE, FixtureError, differences
from training.export.reading import read_bundle, read_detector
from training.models.build import build_model
from training.models.matching_decoder import Head
from training.models.pretrained import begin_with
from training.models.pretrained_text import begin_text_with, read_text_folder
from training.models.released import read_released
from training.models.rice import Rice
from training.recipes import DETECTOR_RECIPES, RECIPES, detector_recipe_named, recipe_named
from training.recipes.detectors import DETECTOR_CLIP_SMALL_SYNTH
from training.starting import begin_silently
from training.terminal import CommandError, EncoderOption, TextOption, console

app = typer.Typer()

OutOption = Annotated[Path, typer.Option(help="The checkpoint that is written.")]
HeadOption = Annotated[
    Head,
    typer.Option(help="How the matching weights are used: `cosine` as released, or `linear`."),
]


@app.command()
def init(
    recipe_name: Annotated[str, typer.Argument(metavar="RECIPE", help=f"{', '.join(RECIPES)}.")],
    out: OutOption,
    encoder: EncoderOption = None,
    text: TextOption = None,
) -> None:
    """Write a recipe's model as it is before training, with random weights."""
    recipe = recipe_named(recipe_name)
    _save(out, begun(recipe, encoder, text))


@app.command(name="import")
def import_model(  # noqa: PLR0917 - typer reads the options off the signature
    path: Annotated[Path, typer.Argument(metavar="RELEASED.pth|BUNDLE")],
    out: OutOption,
    recipe_name: Annotated[
        str, typer.Option("--recipe", help="The run that a released checkpoint stands for.")
    ] = "rice_vitb32_lpr750k",
    head: HeadOption = "cosine",
    detector_out: Annotated[
        Path | None,
        typer.Option("--detector", help="The checkpoint of a bundle's detector, written too."),
    ] = None,
    detector_recipe_name: Annotated[
        str,
        typer.Option(
            "--detector-recipe",
            help=f"The run that a bundle's detector stands for: {', '.join(DETECTOR_RECIPES)}.",
        ),
    ] = DETECTOR_CLIP_SMALL_SYNTH.name,
) -> None:
    """Turn a checkpoint of RICE's released code, or a bundle's graphs, into a checkpoint of ours.

    A bundle's has the weights that are served; its detector's are another checkpoint.
    """
    detector_recipe = detector_recipe_named(detector_recipe_name)
    if path.is_dir():
        kept = read_bundle(path)
        detector = read_detector(path, detector_recipe, kept) if detector_out else None
        _save(out, kept)
        if detector_out and detector:
            _save(detector_out, detector)
        return
    if detector_out:
        raise CommandError(f"{path} is no bundle: only a bundle has a detector")
    recipe = recipe_named(recipe_name)
    model = _released(path, head)
    weight = recipe.reconstruction_weight if model.reconstruction else 0.0
    recipe = replace(recipe, model=model.config, reconstruction_weight=weight)
    _save(out, checkpoint.of_model(recipe, model))


@app.command()
def resize(
    path: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="Of RICE or SGMN.")],
    size: Annotated[int, typer.Option(metavar="PIXELS", help="A multiple of the patches'.")],
    out: OutOption,
) -> None:
    """Let a model look at larger, or smaller, pictures than it was trained on; nothing is trained.

    A little larger is often better (FixRes: Touvron et al., 2019): try it with `evaluate` on val.
    """
    _save(out, checkpoint.resized(checkpoint.load(path), size))


@app.command()
def average(
    first: Annotated[Path, typer.Argument(metavar="FIRST", help="A checkpoint.")],
    second: Annotated[Path, typer.Argument(metavar="SECOND", help="One that went on from it.")],
    out: OutOption,
    share: Annotated[
        float, typer.Option(min=0, max=1, help="Of the second one in each weight.")
    ] = 0.5,
) -> None:
    """Take the mean of two models' weights, of which one was trained further on other data.

    It often has what the one knew and what the other learned (WiSE-FT: Wortsman et al., 2022): try
    several shares with `evaluate` on val.
    """
    _save(out, checkpoint.averaged(checkpoint.load(first), checkpoint.load(second), share))


@app.command()
def verify(
    path: Annotated[
        Path, typer.Option("--checkpoint", help="A released .pth, or a checkpoint of ours.")
    ],
    fixture: Annotated[Path, typer.Option(help="The released code's inputs and outputs, .npz.")],
    head: HeadOption = "cosine",
) -> None:
    """Compare a model's numbers with the released code's; exit 1 where they differ."""
    model = (
        checkpoint.load(path).model() if path.suffix == ".safetensors" else _released(path, head)
    )
    found = differences(model, fixture)
    width = max(map(len, found))
    for name, difference in found.items():
        typer.echo(f"{name:{width}}  {difference:.1e}")
    if wrong := [name for name, difference in found.items() if not difference <= TOLERANCE]:
        raise FixtureError(f"more than {TOLERANCE:.0e} off: {', '.join(wrong)}")


def begun(recipe: Recipe, encoder: Path | None, text: Path | None = None) -> checkpoint.Checkpoint:
    """A recipe's model with random weights by its seed, or begun with CLIP's; its text tower, with
    `text`, is the one of that folder. Raises WeightsError."""
    torch.manual_seed(recipe.seed)
    found = None if text is None else read_text_folder(text)
    if found is not None:
        recipe = replace(recipe, model=replace(recipe.model, text=found.config))
    model = build_model(recipe.model)
    if found is not None and model.text is not None:
        begin_text_with(model.text.tower, found)
        console.print(f"from {text}: {found.config.family} text tower", soft_wrap=True)
    if encoder is not None:
        parts = begin_with(model, encoder)
        begin_silently(model)
        console.print(f"from {encoder}: {', '.join(parts)}; the rest is random", soft_wrap=True)
    return checkpoint.of_model(recipe, model, None if found is None else found.tokenizer)


def _released(path: Path, head: Head) -> Rice:
    model, left_out = read_released(path, head)
    if left_out:
        console.print(f"not used: {', '.join(left_out)}", soft_wrap=True)
    return model


def _save(out: Path, made: checkpoint.AnyCheckpoint) -> None:
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.save(out, made)
    except OSError as error:
        raise CommandError(f"{out}: {error.strerror}") from error
    console.print(f"{out}", soft_wrap=True)
