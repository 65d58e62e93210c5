"""What the commands of `lpr-train` share: where they print, how they stop, bars, options."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from PIL import Image
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from typer.core import TyperGroup

from training.distributed import started_rank
from training.errors import TrainingError

console = Console(stderr=True)
errors = Console(stderr=True)  # of every process, where `console` is of the one that leads


def _there(name: str) -> str:
    """A device's name. Raises BadParameter."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise typer.BadParameter(f"torch knows no device {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise typer.BadParameter("torch finds no CUDA here")
    return name


DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, ...", callback=_there)]
EncoderOption = Annotated[
    Path | None,
    typer.Option(help="CLIP's weights that encoder and decoder begin with: a file or a folder."),
]
StartOption = Annotated[
    Path | None,
    typer.Option(help="Checkpoint whose weights training begins with; parts it lacks are random."),
]
TextOption = Annotated[
    Path | None, typer.Option(help="Folder of the text tower that reads titles and speech.")
]
StepsOption = Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's.")]
UnseenOption = Annotated[
    list[Path],
    typer.Option(
        help="A data set of any layout, whose val has products that training never saw: it helps "
        "to choose the weights of the score's parts."
    ),
]
UnseenTestOption = Annotated[
    list[Path],
    typer.Option(help="The same, of which nothing is reported: its test, which is larger."),
]
SplitOption = Annotated[Literal["val", "test"], typer.Option(help="val or test.")]


class CommandError(TrainingError):
    """The command's arguments do not go together."""


def make_folder(path: Path) -> None:
    """Raises CommandError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from error


def check_picture(path: Path | None) -> None:
    """Whether a picture can be written there, if one is asked for. Raises CommandError."""
    if path is None:
        return
    if path.suffix.lower() not in Image.registered_extensions():
        raise CommandError(f"{path}: {path.suffix!r} names no kind of picture")
    if not path.parent.is_dir():
        raise CommandError(f"{path}: there is no folder {path.parent}")


class Commands(TyperGroup):
    """Commands that end with the message, and status 1, of whatever TrainingError stops them."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except TrainingError as error:
            rank = started_rank()
            told = str(error) if rank is None else f"process {rank}: {error}"
            errors.print(told, style="red", markup=False, soft_wrap=True)
            raise typer.Exit(1) from error


class ClipsPerSecond(ProgressColumn):
    """Of tasks whose steps are of so many `clips`, a field of theirs; of others nothing."""

    def render(self, task: Task) -> Text:
        clips = task.fields.get("clips")
        if not clips or not task.speed:
            return Text()
        return Text(f"{clips * task.speed:.1f} clips/s", style="progress.data.speed")


def progress_bars() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        ClipsPerSecond(),
        TimeRemainingColumn(),
        console=console,
    )
