"""What the commands of `lpr` share: where they print, how they stop, and their client."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from pydantic_settings import SettingsError
from rich.console import Console
from rich.markup import escape
from rich.table import Column

from service.client import Client, ClientError, KeyRefusedError, ServiceUnreachableError
from service.server import address
from service.settings import Settings, complaints

out = Console()
err = Console(stderr=True)

Url = Annotated[
    str | None, typer.Option(help="Address of the service [default: as LPR_HOST and LPR_PORT say]")
]
KeySecret = Annotated[
    str | None,
    typer.Option(
        "--key", help="Key to send (LPR_KEY, which unlike this nobody sees in a list of processes)."
    ),
]


@contextmanager
def ready_client(url: str | None, key: str | None) -> Iterator[Client]:
    """A client of a service that answers and is ready."""
    settings = settings_with(**({} if key is None else {"key": key}))
    secret = settings.key.get_secret_value() if settings.key else None
    with ExitStack() as closing:
        try:
            client = Client(url or address(settings.host, settings.port), key=secret)
            closing.enter_context(client).wait_ready(0)
        except ClientError as error:
            raise stop(str(error)) from error
        yield client


def settings_with(**given: Any) -> Settings:
    """The settings, `given` before the environment; where they are not valid the command stops."""
    try:
        return Settings(**given)
    except ValidationError as error:
        raise stop(f"The settings are not valid: {complaints(error)}") from error
    except SettingsError as error:
        raise stop(f"The settings cannot be read: {error}") from error


def id_column(name: str) -> Column:
    """A table's column of what may have to be typed: folded where there is no room, never cut."""
    return Column(name, overflow="fold")


HOPELESS = (KeyRefusedError, ServiceUnreachableError)
"""Errors after which the next clip or product would fare no better."""


def give_up(error: Exception) -> typer.Exit:
    """Stop for one of `HOPELESS`."""
    hint = "; lpr sends the key of --key or LPR_KEY" if isinstance(error, KeyRefusedError) else ""
    return stop(f"{error}{hint}")


def complain(what: object, error: Exception) -> None:
    err.print(f"[red]{escape(str(what))}[/]: {escape(str(error))}", highlight=False, soft_wrap=True)


def stop(message: str) -> typer.Exit:
    err.print(f"[red]{escape(message)}[/]", highlight=False, soft_wrap=True)
    return typer.Exit(1)
