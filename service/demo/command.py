"""`lpr demo`: a shop, clips of its products, and a real service that recognises them over HTTP.

`lpr made` writes the folder of made products that the demo uses where there are no photographs;
training uses it too, with seeds below 1000, the demo with seeds from 1000 on.
"""

from __future__ import annotations

import contextlib
import shlex
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from service.client import Client, ClientError
from service.demo.layout import (
    CLASSES,
    PHOTOGRAPHS,
    ShopItem,
    Take,
    read_distractors,
    read_shop,
    read_takes,
    spread,
)
from service.demo.made import FIRST_DEMO_SEED, SPLITS, make_dataset
from service.demo.report import Outcome, draw, tell, write_json
from service.demo.session import SHOP, entries, film_all, index, recognise
from service.demo.work import Progress
from service.errors import DemoError, LPRError
from service.launch import running_service
from service.media.clips import ClipDecoder
from service.settings import Settings

MADE_PRODUCTS = 60
MADE_PHOTOGRAPHS = 5
MADE_SIZE = 400
DEFAULT_CLIPS = 24


@dataclass(frozen=True)
class _Plan:
    """What is shown: the shop, the pictures that distract from it, the clips to film."""

    shop: list[ShopItem]
    distractors: list[Path]
    takes: list[Take]


@contextmanager
def _bar(console: Console, label: str) -> Iterator[Progress]:
    columns = (
        TextColumn(f"{label:<22}"),
        BarColumn(bar_width=36),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Bars(*columns, console=console) as bars:
        task = bars.add_task(label, total=None)

        def report(done: int, total: int) -> None:
            bars.update(task, completed=done, total=total)

        yield report


@contextmanager
def _readable_errors(console: Console) -> Iterator[None]:
    try:
        yield
    except (LPRError, ClientError, OSError) as error:
        console.print(f"[red]{escape(str(error))}[/]", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


def _wanted(clips: str | None) -> int | None:
    """The number of clips; None for all of them."""
    if clips is None:
        return DEFAULT_CLIPS
    if clips == "all":
        return None
    if not clips.isdecimal() or int(clips) < 1:
        raise DemoError(f"--clips is a number from 1 on, or `all`, not {clips!r}")
    return int(clips)


def _drawn(console: Console, folder: Path, seed: int) -> Path:
    """A folder of made products, of the same layout as real ones."""
    with _bar(console, "Drawing products") as progress:
        make_dataset(
            folder,
            products=MADE_PRODUCTS,
            photographs=MADE_PHOTOGRAPHS,
            seed=seed,
            split="test",
            size=MADE_SIZE,
            progress=progress,
        )
    return folder


def _plan(folder: Path, distractors: Path | None, wanted: int | None) -> _Plan:
    shop = read_shop(folder)
    takes = read_takes(folder, shop)
    return _Plan(
        shop=shop,
        distractors=[] if distractors is None else read_distractors(distractors),
        takes=takes if wanted is None else spread(takes, wanted),
    )


def _run(
    console: Console, client: Client, plan: _Plan, clips: list[Path], *, detect: bool
) -> Outcome:
    """The shop goes in, the clips are recognised."""
    with _bar(console, "Indexing the shop") as progress:
        index(client, entries(plan.shop, plan.distractors), progress)
    with _bar(console, "Recognising clips") as progress:
        rows = recognise(client, plan.takes, clips, progress, detect=detect)
    bundle = str(client.info()["bundle"]["id"])
    return Outcome(bundle, plan.shop, len(plan.distractors), plan.takes, clips, rows)


def _stay(console: Console, client: Client, clip: Path) -> None:
    """Leaves the service up until Ctrl-C."""
    url = f"{client.base_url}/recognize"
    command = f"curl -F shop_id={SHOP} -F clip=@{shlex.quote(str(clip))} {url}"
    console.print(f"\nThe service is up at [bold]{client.base_url}[/] (docs: /docs). Try:")
    console.print(f"  {command}", highlight=False, soft_wrap=True)
    console.print("Ctrl-C ends it.")
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(3600)


def demo(  # noqa: PLR0917 - typer reads the options off the signature
    data: Annotated[
        Path | None,
        typer.Option(
            help=f"Folder of real photographs: classes.csv ({', '.join(CLASSES)}) and "
            f"test.csv ({', '.join(PHOTOGRAPHS)}); pictures by their paths in it."
        ),
    ] = None,
    distractors: Annotated[
        Path | None, typer.Option(help="Folder of pictures to index as further products.")
    ] = None,
    clips: Annotated[
        str | None, typer.Option(help=f"How many clips, or `all`.  [default: {DEFAULT_CLIPS}]")
    ] = None,
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("demo.png"),
    seed: Annotated[
        int,
        typer.Option(min=FIRST_DEMO_SEED, help="Of the made products and of the clips' camera."),
    ] = FIRST_DEMO_SEED,
    detect: Annotated[
        bool, typer.Option(help="Whether the bundle's detector, if any, looks for the product.")
    ] = True,
    keep: Annotated[bool, typer.Option(help="Leave the service up until Ctrl-C.")] = False,
    data_dir: Annotated[
        Path | None, typer.Option(help="The service's data directory.  [default: temporary]")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File for the figures and every answer.")
    ] = None,
) -> None:
    """Recognise products in clips, end to end: a real service, a shop, clips, HTTP.

    Without --data, products and clips are made up. Training draws its made products with seeds
    below 1000; the demo's begin at 1000, so it never shows a product the model has seen.
    """
    console = Console()
    with (
        _readable_errors(console),
        tempfile.TemporaryDirectory(prefix="lpr-demo-") as temporary,
    ):
        work = Path(temporary)
        wanted = _wanted(clips)
        folder = data or _drawn(console, work / "made", seed)
        plan = _plan(folder, distractors, wanted)
        with _bar(console, "Filming clips") as progress:
            filmed = film_all(plan.takes, work / "clips", seed, progress)
        with contextlib.ExitStack() as stack:
            with console.status("Starting the service"):
                service = running_service(data_dir or work / "service")
                client = stack.enter_context(service)
            outcome = _run(console, client, plan, filmed, detect=detect)
            tell(console, outcome)
            if json_file is not None:
                write_json(outcome, json_file)
            draw(outcome, out, ClipDecoder(Settings().media), plan.distractors)
            console.print(f"The picture is [bold]{out}[/].")
            if keep:
                _stay(console, client, filmed[0])


def made(  # noqa: PLR0917 - typer reads the options off the signature
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    products: Annotated[int, typer.Option(min=1, help="Products of the shop.")] = MADE_PRODUCTS,
    photographs: Annotated[int, typer.Option(min=1, help="Photographs of each product.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Below 1000 for training.")] = 0,
    split: Annotated[str, typer.Option(help=f"One of {', '.join(SPLITS)}.")] = "train",
    size: Annotated[int, typer.Option(min=64, help="Pixels of a photograph's side.")] = 256,
) -> None:
    """Write a shop of made products with photographs of each, in the layout of real data.

    The same arguments write the same files. Five photographs after another make one clip. Seeds
    below 1000 are for training, the demo's begin at 1000.
    """
    console = Console()
    with _readable_errors(console), _bar(console, "Drawing products") as progress:
        make_dataset(
            out,
            products=products,
            photographs=photographs,
            seed=seed,
            split=split,
            size=size,
            progress=progress,
        )
