"""`lpr reindex`: the active bundle's index compared with the catalogue, and made to agree with it.

Only what differs is encoded, so a run that was stopped goes on where it was. With a Milvus server
it works beside running services; Milvus Lite and its directory are one process's alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from service.coordination.epochs import Epochs
from service.coordination.locks import Locks
from service.coordination.private_server import PrivateRedis
from service.coordination.store import Store
from service.encoding import Encoder
from service.errors import LPRError, StartupError
from service.gallery.catalogue import Catalogue
from service.gallery.index import WriteTime
from service.gallery.pending import Pending
from service.gallery.roles import RolesRecord
from service.gallery.storage import open_storage
from service.inference.manifest import read_manifest
from service.inference.model import Model
from service.inference.shelf import Shelf
from service.opening import open_index
from service.parts import claim
from service.settings import Settings
from service.settling import Gallery, Kept, Projection, Settler
from service.telemetry import Telemetry
from service.terminal import err, out, settings_with, stop

_SHOWN = 20  # of the products that differ


def reindex(
    *,
    verify: Annotated[
        bool, typer.Option("--verify", help="Only tell what differs; exit 1 if anything does.")
    ] = False,
    shop: Annotated[str | None, typer.Option("--shop", help="Only this shop's products.")] = None,
) -> None:
    """Rebuild the index from the catalogue, or verify that the two agree.

    Reads the settings of the service (LPR_*). Products that are indexed already are left alone, so
    it may be stopped and started again. It works while services run on a Milvus server; with Milvus
    Lite, stop the service first.
    """
    logging.getLogger("service").setLevel(logging.ERROR)
    try:
        with _opened(settings_with(), shop) as (settler, projection):
            failed = (
                _verify(settler, projection, shop)
                if verify
                else _rebuild(settler, projection, shop)
            )
    except LPRError as error:
        raise stop(f"The index cannot be looked at: {error.detail}") from error
    if failed:
        raise typer.Exit(1)


def _verify(settler: Settler, projection: Projection, shop: str | None) -> bool:
    differing, agreeing = settler.compare_lasting(projection, shop)
    for shop_id, product_id in differing[:_SHOWN]:
        out.print(f"{escape(shop_id)} / {escape(product_id)}", highlight=False, soft_wrap=True)
    if len(differing) > _SHOWN:
        out.print(f"... and {len(differing) - _SHOWN} more")
    if differing:
        out.print(
            f"The index differs from the catalogue about {_counted(len(differing), 'product')}."
        )
    else:
        told = f"{_counted(agreeing.total(), 'product')} in {_counted(len(agreeing), 'shop')}"
        out.print(f"The index agrees with the catalogue: {told}.")
    return bool(differing)


def _rebuild(settler: Settler, projection: Projection, shop: str | None) -> bool:
    columns = (TextColumn("indexing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    indexed = 0
    with Progress(*columns, console=err) as progress:
        task = progress.add_task("", total=None)

        def tell(done: int, of: int) -> bool:
            nonlocal indexed
            indexed = max(indexed, of)
            progress.update(task, completed=done, total=of)
            return True

        kept_out = settler.agree(projection, tell, shop) or []
        progress.update(task, completed=indexed, total=indexed)
    for error in kept_out:
        err.print(f"[red]{escape(error.detail)}[/]", highlight=False, soft_wrap=True)
    done = _counted(indexed - len(kept_out), "product")
    out.print(f"{done} indexed; what else there is agreed already.")
    if kept_out:
        out.print(f"{_counted(len(kept_out), 'product')} cannot be indexed.")
    return bool(kept_out)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


class _Only:
    """The active bundle's index is made to agree; no marker is removed on behalf of others."""

    def __init__(self, projection: Projection) -> None:
        self.active = projection

    def kept(self) -> Kept:
        return Kept([self.active], complete=False)


@contextmanager
def _opened(settings: Settings, shop: str | None) -> Iterator[tuple[Settler, Projection]]:
    """Raises StartupError, UnavailableError; ShopNotFoundError for a `shop` that is nowhere."""
    folder = settings.data_dir / "catalogue"
    if settings.catalogue.url is None and not folder.is_dir():
        raise StartupError(f"there is no catalogue {folder}; is LPR_DATA_DIR right?")
    with ExitStack() as closing:
        embedded = settings.milvus.uri is None
        if embedded:
            claim(settings.data_dir, closing)
        storage = open_storage(settings.catalogue, folder)
        catalogue = Catalogue(storage)
        telemetry, written = Telemetry(), WriteTime()
        # A running service's own, if it has one; nobody answers there if none runs.
        url = (
            settings.redis.url.get_secret_value()
            if settings.redis.url is not None
            else PrivateRedis(settings.data_dir / "redis").url
        )
        redis = Store.at(url, settings.redis.timeout_s, telemetry)
        closing.callback(redis.close)
        store = redis.owned_by(catalogue.own_id())
        active = RolesRecord(storage, read_manifest(settings.bundle).bundle_id).read().active
        bundle = Shelf(settings.bundle, settings.bundles_folder).load(active)
        index = open_index(settings, bundle, catalogue, telemetry, written)
        closing.callback(index.close)
        if shop is not None and next(index.scan(shop), None) is None:
            catalogue.check_shop(shop)
        model = Model.open(bundle, settings.inference)
        projection = Projection(Encoder(model, catalogue, settings.media), index)
        gallery = Gallery(
            catalogue,
            _Only(projection),
            Epochs(store, written.latest),
            Pending(storage, alone=False),
            Locks(None if embedded else store),
        )
        yield Settler(gallery), projection
