"""`lpr-train fit`, and the one way in which commands begin a run and train it, told by a bar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NamedTuple, TypeVar

import torch
import typer
from numpy.random import default_rng
from rich.progress import Progress

from training import checkpoint, distributed, engine
from training.configs import AnyRecipe, Compute, Precision, Recipe
from training.data.given import (
    DataOption,
    LimitOption,
    judged_set,
    training_folders,
    training_sets,
)
from training.data.sets import JudgedSet, TrainingSet
from training.data.texts import corpus
from training.data.tokenizing import TextTokenizer, train_tokenizer
from training.data.wrong_lines import DEFAULT_LIMIT
from training.files import replacing
from training.models.commands import begun
from training.recipes import DETECTOR_RECIPES, RECIPES, any_recipe_named
from training.starting import reduced
from training.terminal import (
    CommandError,
    DeviceOption,
    EncoderOption,
    StartOption,
    StepsOption,
    TextOption,
    console,
    make_folder,
    progress_bars,
)

PrecisionOption = Annotated[Precision, typer.Option(help="Of the computation.")]
ChunkOption = Annotated[
    int | None,
    typer.Option(help="Pictures encoded at once, where memory does not hold a whole batch."),
]
CheckpointingOption = Annotated[
    bool, typer.Option(help="Saves memory: computes within the encoder's blocks twice.")
]
CompileOption = Annotated[
    bool,
    typer.Option("--compile", help="Translates blocks first (torch.compile), a minute or less."),
]
RecipeKind = TypeVar("RecipeKind", Recipe, AnyRecipe)


def fit(  # noqa: PLR0917 - typer reads the options off the signature
    recipe_name: Annotated[
        str, typer.Argument(metavar="RECIPE", help=f"{', '.join((*RECIPES, *DETECTOR_RECIPES))}.")
    ],
    data: DataOption,
    out: Annotated[
        Path,
        typer.Option(file_okay=False, help="Folder of the run; a run found there is resumed."),
    ],
    device: DeviceOption = "cpu",
    start: StartOption = None,
    encoder: EncoderOption = None,
    text: TextOption = None,
    detector: Annotated[
        Path | None,
        typer.Option(help="Checkpoint of a detector, for a recipe of the frames that it finds."),
    ] = None,
    steps: StepsOption = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the recipe's.")] = None,
    precision: PrecisionOption = "bf16",
    chunk: ChunkOption = None,
    checkpointing: CheckpointingOption = False,
    compiled: CompileOption = False,
    limit: LimitOption = DEFAULT_LIMIT,
) -> None:
    """Train a recipe; killed and started again, it goes on where it was.

    On several GPUs: torchrun --no-python --nproc-per-node 8 lpr-train fit ... --device cuda
    """
    recipe = shortened(any_recipe_named(recipe_name), steps)
    recipe = recipe if seed is None else replace(recipe, seed=seed)
    compute = compute_of(precision, chunk, checkpointing, compiled)
    folders = training_folders(recipe, data)
    if not (out / "last.safetensors").exists():
        check_frozen(recipe, start, encoder)
    recipe, begin = beginning(recipe, start, encoder, text)
    found = None if detector is None else checkpoint.load_detector(detector)
    engine.check_detector(recipe, found)
    make_folder(out)
    with distributed.joined(torch.device(device)) as place:
        console.quiet = not distributed.share().leads
        with progress_bars() as bars:
            opened = _open(recipe, folders, bars, limit)
            best = fitted(
                recipe, opened, out, bars,
                device=place, begin=begin, detector=found, compute=compute,
            )  # fmt: skip
    console.print(f"best checkpoint: {best}")


def shortened(recipe: RecipeKind, steps: int | None) -> RecipeKind:
    """To so many steps, where they are given. Raises CommandError."""
    try:
        schedule = replace(recipe.schedule, steps=steps or recipe.schedule.steps)
    except ValueError as error:
        raise CommandError(str(error)) from error
    return replace(recipe, schedule=schedule)


def compute_of(
    precision: Precision, chunk: int | None, checkpointing: bool, compiled: bool
) -> Compute:
    """Raises CommandError."""
    try:
        return Compute(precision, chunk, checkpointing, compiled)
    except ValueError as error:
        raise CommandError(str(error)) from error


def beginning(
    recipe: AnyRecipe, start: Path | None, encoder: Path | None, text: Path | None
) -> tuple[AnyRecipe, checkpoint.AnyCheckpoint | None]:
    """The weights that a run begins with, None for random ones and without parts that it lacks, and
    its recipe, of which a pre-trained text tower is a part. Raises TrainingError."""
    begin: checkpoint.AnyCheckpoint | None = None
    if start is not None:
        if encoder is not None or text is not None:
            raise CommandError(
                "--start brings all weights: give one of --start and --encoder or --text"
            )
        begin = checkpoint.load_any(start)
        if isinstance(begin, checkpoint.Checkpoint) and isinstance(recipe, Recipe):
            begin = reduced(begin, recipe)
    elif encoder is not None or text is not None:
        if not isinstance(recipe, Recipe):
            raise CommandError(f"{recipe.name} has no encoder of CLIP's and reads no text")
        begin = begun(recipe, encoder, text)
        recipe = begin.recipe
    _check_tower(recipe, begin)
    return recipe, begin


def check_frozen(recipe: AnyRecipe, start: Path | None, encoder: Path | None) -> None:
    """An encoder that is not trained must have learned before. Raises CommandError."""
    if recipe.schedule.encoder_rate == 0 and start is None and encoder is None:
        raise CommandError(
            f"{recipe.name} trains no encoder, so it needs the weights of one: --start CHECKPOINT"
        )


def _check_tower(recipe: AnyRecipe, begin: checkpoint.AnyCheckpoint | None) -> None:
    """A pre-trained text tower comes with its weights and its tokenizer."""
    text = recipe.model.text if isinstance(recipe, Recipe) else None
    told = isinstance(begin, checkpoint.Checkpoint) and begin.tokenizer is not None
    if text is not None and text.family != "own" and not told:
        raise CommandError(f"{recipe.name} reads with a {text.family} text tower: --text FOLDER")


class RunData(NamedTuple):
    """What a recipe is trained on and chosen by."""

    sets: dict[str, TrainingSet]
    val: JudgedSet


def _open(recipe: AnyRecipe, folders: Mapping[str, Path], bars: Progress, limit: int) -> RunData:
    """Raises DataError."""
    with distributed.first_alone():
        return RunData(
            training_sets(recipe, folders, bars, limit),
            judged_set(recipe, folders, "val", bars),
        )


def fitted(
    recipe: AnyRecipe,
    data: RunData,
    out: Path,
    bars: Progress,
    *,
    device: torch.device,
    compute: Compute,
    begin: checkpoint.AnyCheckpoint | None = None,
    detector: checkpoint.DetectorCheckpoint | None = None,
) -> Path:
    """Trains, told by a bar; returns the best checkpoint. Raises TrainingError."""
    task = bars.add_task(recipe.name, total=recipe.schedule.steps)

    def watch(progress: engine.Progress) -> None:
        losses = "  ".join(f"{name} {value:.3f}" for name, value in progress.losses.items())
        bars.update(
            task,
            completed=progress.step,
            description=f"{recipe.name}  {losses}",
            clips=progress.clips,
        )
        if progress.validation:
            console.print(f"step {progress.step}  {losses}  {progress.validation}", soft_wrap=True)

    return engine.fit(
        recipe, data.sets, data.val, out,
        device=device, start=begin, detector=detector, compute=compute, watch=watch,
        track=lambda items, told: bars.track(items, description=told),
        tokenizer=run_tokenizer(recipe, data.sets, out, begin),
    )  # fmt: skip


def run_tokenizer(
    recipe: AnyRecipe,
    sets: Mapping[str, TrainingSet],
    out: Path,
    begin: checkpoint.AnyCheckpoint | None,
) -> TextTokenizer | None:
    """Of a model that reads text: the starting weights', or one that is trained on the sources'
    texts and kept in the run's folder."""
    if not isinstance(recipe, Recipe) or recipe.model.text is None:
        return None
    text = recipe.model.text
    if isinstance(begin, checkpoint.Checkpoint) and begin.tokenizer is not None:
        return TextTokenizer(begin.tokenizer, text.max_tokens)
    kept = out / "tokenizer.json"
    with distributed.first_alone():
        if not kept.exists():
            texts = corpus(sets, default_rng(recipe.seed), talk=recipe.talk > 0)
            trained = train_tokenizer(texts, text.vocabulary)
            out.mkdir(parents=True, exist_ok=True)
            with replacing(kept) as partial:
                partial.write_text(trained, encoding="utf-8")
    return TextTokenizer(kept.read_text(encoding="utf-8"), text.max_tokens)
