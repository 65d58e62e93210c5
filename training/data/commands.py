"""`lpr-train data ...`: looks through data sets, and makes one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from training.data.check import Findings, check
from training.data.contact_sheet import contact_sheet
from training.data.errors import DataError
from training.data.synthetic.writer import Shards, Synth, write_synth
from training.data.wrong_lines import DEFAULT_LIMIT
from training.terminal import check_picture, console, progress_bars

app = typer.Typer(no_args_is_help=True)
SHOWN = 10  # missing files and categories that are told one by one


@app.command(name="check")
def check_data(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The data set's folder.")],
    sheet: Annotated[Path | None, typer.Option(help="Where a contact sheet is written.")] = None,
    limit: Annotated[int, typer.Option(help="Wrong lines that are too many.")] = DEFAULT_LIMIT,
    processes: Annotated[int, typer.Option(help="That read it.")] = os.cpu_count() or 1,
) -> None:
    """Tell what a data set holds: layout, counts, missing files, wrong lines."""
    check_picture(sheet)
    with progress_bars() as progress:

        def track(items: Iterable[int], total: int, name: str) -> Iterable[int]:
            return progress.track(items, total=total, description=name)

        found = check(path, track, limit=limit, processes=processes)
    _tell(found)
    if sheet is not None and found.rows:
        contact_sheet(found.rows).save(sheet)
        console.print(f"contact sheet: {sheet}", soft_wrap=True)
    typer.echo(
        json.dumps(
            {
                "layout": found.layout,
                **{name.replace(" ", "_"): count for name, count in found.counts.items()},
                "missing": len(found.missing),
                "wrong_lines": found.wrong.count,
            }
        )
    )


@app.command()
def synth(  # noqa: PLR0917 - typer reads the options off the signature
    out: Annotated[Path, typer.Option(help="Folder of the data set, new or empty.")],
    clips: Annotated[int, typer.Option(help="Of training and test together.")],
    seed: Annotated[int, typer.Option(help="Another seed, another data set.")] = 0,
    size: Annotated[int, typer.Option(help="Shorter side of frames, pixels.")] = 224,
    shop_size: Annotated[int, typer.Option(help="Products of each livestream's shop.")] = 600,
    rivals: Annotated[
        bool, typer.Option("--rivals", help="More products are compared, and held alike.")
    ] = False,
    by_speech: Annotated[
        bool,
        typer.Option(
            "--by-speech", help="With --rivals: some all the while, so that only speech tells."
        ),
    ] = False,
    shards: Annotated[Shards, typer.Option(help="Tar files or folders.")] = "tar",
    processes: Annotated[int, typer.Option(help="That make it.")] = os.cpu_count() or 1,
) -> None:
    """Make LPR-Synth: livestreams of made products, in LPR4M's layout."""
    made = Synth(clips, seed, size, shop_size=shop_size, rivals=rivals, by_speech=by_speech)
    try:
        with progress_bars() as progress:
            task = progress.add_task("clips", total=clips)
            write_synth(
                out,
                made,
                shards=shards,
                processes=processes,
                done=lambda made: progress.advance(task, made),
            )
            taken = progress.tasks[task].finished_time or progress.tasks[task].elapsed or 0.0
    except OSError as error:
        raise DataError(str(error)) from error
    console.print(f"{clips} clips in {taken:.0f} s, {clips / max(taken, 1e-9):.1f} a second: {out}")


def _tell(found: Findings) -> None:
    console.print(f"layout: {found.layout}")
    for name, count in found.counts.items():
        console.print(f"{count:>12,}  {name}")
    for kind, counter in found.kinds.items():
        told = ", ".join(f"{name} {count:,}" for name, count in counter.most_common(SHOWN))
        console.print(f"{kind}: {told}", soft_wrap=True)
    _tell_some("missing", found.missing, len(found.missing))
    _tell_some("wrong lines", found.wrong.examples, found.wrong.count)


def _tell_some(name: str, examples: list[str], count: int) -> None:
    if not count:
        console.print(f"[green]{name}: none")
        return
    console.print(f"[red]{name}: {count:,}")
    for example in examples[:SHOWN]:
        console.print(f"  {example}", soft_wrap=True, markup=False)
