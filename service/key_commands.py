"""`lpr keys`: make, list and revoke keys, in the file that a running service reads anew.

Works on the file itself, so it needs no service, and who may write the file may make keys.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from service.errors import KeysError
from service.keys import Key, Right, create_key, read_keys, revoke_key
from service.terminal import err, id_column, out, settings_with, stop

app = typer.Typer(no_args_is_help=True, help="Keys: who may do what, in which shops.")

DataDir = Annotated[
    Path | None,
    typer.Option(help="Where keys.json lies (LPR_DATA_DIR), unless LPR_KEYS__FILE says another."),
]


@app.command()
def create(
    *,
    name: Annotated[str, typer.Option(help="Whose it is; told in the audit log.")],
    shop: Annotated[
        list[str] | None, typer.Option(help="Id of a shop it is for; may be repeated.")
    ] = None,
    all_shops: Annotated[bool, typer.Option("--all-shops", help="It is for every shop.")] = False,
    right: Annotated[
        list[Right] | None,
        typer.Option(help="What it allows; may be repeated [default: recognize]."),
    ] = None,
    days: Annotated[
        int | None, typer.Option(help="It expires after so many days [default: never].", min=1)
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Make a key and print its secret, which is shown this once and kept nowhere."""
    if bool(shop) == all_shops:
        raise stop("Say which shops the key is for: --shop (once or more), or --all-shops.")
    expires_at = None if days is None else datetime.now(UTC) + timedelta(days=days)
    file = _file(data_dir)
    try:
        key, secret = create_key(
            file,
            name=name,
            shops=shop or "all",
            rights=right or [Right.RECOGNIZE],
            expires_at=expires_at,
        )
    except KeysError as error:
        raise stop(error.detail) from error
    typer.echo(secret)
    err.print(f"Key {key.key_id} is in {escape(str(file))}; its secret is not shown again.")


@app.command(name="list")
def list_keys(data_dir: DataDir = None) -> None:
    """Show the keys there are; of none its secret, for nobody has it."""
    file = _file(data_dir)
    if not file.exists():
        out.print(
            f"There are no keys yet; {escape(str(file))} comes with the first.",
            highlight=False,
            soft_wrap=True,
        )
        return
    try:
        keys = read_keys(file)
    except KeysError as error:
        raise stop(error.detail) from error
    table = Table(id_column("id"), "name", id_column("shops"), "rights", "made", "expires")
    for key in keys:
        table.add_row(*_row(key))
    out.print(table)


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="As `lpr keys list` shows it.")],
    data_dir: DataDir = None,
) -> None:
    """Make a key worthless at once."""
    try:
        key = revoke_key(_file(data_dir), key_id)
    except KeysError as error:
        raise stop(error.detail) from error
    err.print(f"Key {key.key_id} ({escape(key.name)}) is revoked.")


def _row(key: Key) -> list[str]:
    shops = "all" if key.shops == "all" else ", ".join(key.shops)
    expires = "never" if key.expires_at is None else f"{key.expires_at:%Y-%m-%d}"
    if key.has_expired:
        expires += " (expired)"
    rights = ", ".join(key.rights)
    row = [key.key_id, key.name, shops, rights, f"{key.created_at:%Y-%m-%d}", expires]
    return [escape(cell) for cell in row]


def _file(data_dir: Path | None) -> Path:
    return settings_with(**({} if data_dir is None else {"data_dir": data_dir})).keys_file
