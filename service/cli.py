"""`lpr`: the service's commands. What they do lies elsewhere; this is how they are spoken to."""

from __future__ import annotations

import json
import re
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from service import bundle_commands, key_commands
from service.bench import command as bench_command
from service.client import Client, ClientError, ProblemError
from service.demo.command import demo, made
from service.errors import StartupError
from service.folder import FolderError, ProductFiles, left_out, read_products
from service.log import log_to_stderr
from service.reindexing import reindex
from service.server import serve as run_server
from service.terminal import (
    HOPELESS,
    KeySecret,
    Url,
    complain,
    err,
    give_up,
    id_column,
    out,
    ready_client,
    settings_with,
    stop,
)

_NAMED = 5  # of the files left out
_UPLOADS = 4  # at once: the service encodes one picture while the next ones arrive

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="markdown",  # else what stands in [brackets] is taken for a style
    help="Livestreaming product recognition: which of the shop's products is in this clip?",
)

app.command()(demo)
app.command()(made)
app.command()(reindex)
app.add_typer(bundle_commands.app, name="bundle")
app.add_typer(key_commands.app, name="keys")
app.add_typer(bench_command.app, name="bench")

Shop = Annotated[str, typer.Option("--shop", help="Id of the shop.")]


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on (LPR_HOST).")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port; 0 takes a free one (LPR_PORT).", min=0, max=65535)
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Catalogue, index and Redis live here (LPR_DATA_DIR).")
    ] = None,
    bundle: Annotated[Path | None, typer.Option(help="Model bundle (LPR_BUNDLE).")] = None,
) -> None:
    """Run the service until it is asked to stop. Its log is one JSON object a line, on stderr."""
    log_to_stderr()
    given = {"host": host, "port": port, "data_dir": data_dir, "bundle": bundle}
    settings = settings_with(**{name: value for name, value in given.items() if value is not None})
    try:
        run_server(settings)
    except StartupError as error:
        raise stop(f"The service cannot start: {error.detail}") from error


@app.command()
def index(
    folder: Annotated[
        Path, typer.Argument(help="Folder of pictures named by product, or a CSV of them.")
    ],
    shop: Shop,
    url: Url = None,
    key: KeySecret = None,
) -> None:
    """Index a folder of product pictures as a shop, through a running service.

    Pictures are named by product: cola.jpg, or cola__1.jpg and cola__2.jpg, or cola/any.jpg. A CSV
    has the columns product_id, title, image. Indexing a product again replaces it.
    """
    try:
        items = read_products(folder)
    except FolderError as error:
        raise stop(str(error)) from error
    if others := left_out(folder):
        named = ", ".join(str(file.relative_to(folder)) for file in others[:_NAMED])
        more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
        told = f"Left out, as neither PRODUCT.jpg nor PRODUCT/PICTURE.jpg: {named}{more}."
        err.print(escape(told), highlight=False, soft_wrap=True)
    with ready_client(url, key) as client:
        failed = _upload(client, shop, items)
    out.print(f"{len(items) - failed} of {len(items)} products indexed in shop {shop!r}.")
    if failed:
        raise typer.Exit(1)


@app.command()
def recognize(
    clips: Annotated[list[Path], typer.Argument(help="Video files.")],
    *,
    shop: Shop,
    url: Url = None,
    key: KeySecret = None,
    top_k: Annotated[int, typer.Option(help="Candidates shown.", min=1, max=100)] = 5,
    speech: Annotated[str | None, typer.Option(help="What is said in them.")] = None,
    detect: Annotated[
        bool, typer.Option(help="Look for the product's box first, where the bundle can.")
    ] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="One answer a line, as the service gave it.")
    ] = False,
) -> None:
    """Say which of a shop's products is shown in each clip."""
    failed = 0
    with ready_client(url, key) as client:
        for clip in clips:
            try:
                answer = client.recognize(shop, clip, top_k, speech=speech, detect=detect)
            except HOPELESS as error:
                raise give_up(error) from error
            except (ClientError, OSError) as error:
                failed += 1
                complain(clip, error)
                continue
            out.print_json(json.dumps(answer), indent=None) if as_json else _show(clip, answer)
    if failed:
        raise typer.Exit(1)


def _upload(client: Client, shop: str, items: list[ProductFiles]) -> int:
    """How many products could not be indexed; each is complained of by name."""
    failed = 0
    columns = (
        TextColumn("indexing"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with (
        Progress(*columns, console=err) as progress,
        ThreadPoolExecutor(_UPLOADS) as uploads,
    ):
        task = progress.add_task("", total=len(items))
        waiting: dict[Future[Any], ProductFiles] = {
            uploads.submit(client.put_product, shop, item.product_id, item.images, item.title): item
            for item in items
        }
        for future in as_completed(waiting):
            try:
                future.result()
            except HOPELESS as error:
                uploads.shutdown(cancel_futures=True)
                raise give_up(error) from error
            except (ClientError, OSError) as error:
                failed += 1
                complain(_at_fault(waiting[future], error), error)
            progress.advance(task)
    return failed


def _at_fault(item: ProductFiles, error: Exception) -> str:
    """The product, and with it the picture that a problem points at."""
    pointer = str(error.problem.get("pointer")) if isinstance(error, ProblemError) else ""
    picture = re.fullmatch(r"/images/(\d+)", pointer)
    return f"{item.product_id}: {item.images[int(picture[1])]}" if picture else item.product_id


def _show(clip: Path, answer: dict[str, Any]) -> None:
    decision, timings = answer["decision"], answer["timings_ms"]
    verdict = (
        f"[bold green]{escape(decision['product_id'])}[/] ({decision['confidence']:.0%} sure)"
        if decision
        else "[bold yellow]not sure enough to name a product[/]"
    )
    damaged = " [yellow](a damaged clip)[/]" if answer.get("partial") else ""
    boxes = answer["clip"]["boxes"]
    found = f", its box in {sum(map(bool, boxes))} of {len(boxes)} frames" if boxes else ""
    took = f"{timings['total']:.0f} ms"
    out.print(f"{escape(str(clip))}: {verdict} in {took}{found}{damaged}")
    table = Table("", id_column("product"), "title", "confidence", "score")
    for place, candidate in enumerate(answer["candidates"], start=1):
        table.add_row(
            str(place),
            escape(candidate["product_id"]),
            escape(candidate["title"] or ""),
            f"{candidate['confidence']:.1%}",
            f"{candidate['score']:.3f}",
        )
    out.print(table)
