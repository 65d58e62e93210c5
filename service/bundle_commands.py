"""`lpr bundle`: which model bundle a running service serves, and changing it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from service.client import Client, ClientError
from service.errors import BundleError
from service.inference.manifest import MANIFEST, read_manifest
from service.terminal import KeySecret, Url, err, id_column, out, ready_client, stop

app = typer.Typer(
    no_args_is_help=True, help="Bundles: see and change which one a running service serves."
)

_LOOK_S = 0.5

WhichBundle = Annotated[str, typer.Argument(metavar="BUNDLE", help="Its id, or its folder here.")]


@app.command(name="list")
def list_bundles(url: Url = None, key: KeySecret = None) -> None:
    """Show the bundles that the service has, and what each is for."""
    with ready_client(url, key) as client:
        _show(_asked(client.bundles))


@app.command()
def activate(
    bundle: WhichBundle,
    *,
    wait: Annotated[bool, typer.Option(help="Until it is served.")] = True,
    url: Url = None,
    key: KeySecret = None,
) -> None:
    """Serve another bundle, one of the service's own, without a pause.

    Its index is filled from the catalogue first, while the active bundle goes on answering. Ctrl-C
    ends the waiting, not the filling; `lpr bundle drop` ends that.
    """
    bundle_id = _id(bundle)
    with ready_client(url, key) as client:
        answer = _asked(lambda: client.activate_bundle(bundle_id))
        if wait:
            answer = _wait(client, bundle_id)
        _show(answer)


@app.command()
def back(url: Url = None, key: KeySecret = None) -> None:
    """Go back to the bundle before; at once, for its index was kept up to date."""
    with ready_client(url, key) as client:
        _show(_asked(client.go_back_a_bundle))


@app.command()
def drop(bundle: WhichBundle, url: Url = None, key: KeySecret = None) -> None:
    """Keep a bundle's index no longer, or give up the filling of one that is coming."""
    with ready_client(url, key) as client:
        _asked(lambda: client.drop_bundle(_id(bundle)))
        _show(_asked(client.bundles))


def _id(bundle: str) -> str:
    folder = Path(bundle)
    if not (folder / MANIFEST).exists():
        return bundle
    try:
        return read_manifest(folder).bundle_id
    except BundleError as error:
        raise stop(error.detail) from error


def _asked(request: Any) -> Any:
    try:
        return request()
    except ClientError as error:
        raise stop(str(error)) from error


def _wait(client: Client, bundle_id: str) -> dict[str, Any]:
    columns = TextColumn("filling"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=err) as bar:
        task = bar.add_task("", total=None)
        while True:
            answer: dict[str, Any] = _asked(client.bundles)
            mine = {b["bundle"]: b for b in answer["bundles"]}.get(bundle_id, {})
            if mine.get("role") != "coming":
                break
            if mine["progress"]:
                bar.update(task, completed=mine["progress"]["done"], total=mine["progress"]["of"])
            time.sleep(_LOOK_S)
    if mine.get("role") != "active":
        raise stop(f"{bundle_id} does not come any more; somebody chose another bundle.")
    return answer


def _show(answer: dict[str, Any]) -> None:
    table = Table(id_column("bundle"), "role", "model", "progress")
    for bundle in answer["bundles"]:
        model, progress = bundle["model"] or {}, bundle["progress"]
        told = f"{progress['done']} of {progress['of']} products" if progress else ""
        table.add_row(
            escape(bundle["bundle"]), bundle["role"], escape(model.get("recipe", "")), told
        )
    out.print(table)
    for folder, fault in answer["broken"].items():
        err.print(f"[yellow]{escape(folder)}[/]: {escape(fault)}", soft_wrap=True)
