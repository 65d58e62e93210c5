"""A bundle opened: its model, and with it its index, its hot shops and its recognizer.

Knows how these are put together; which bundle is opened when is for `service.serving`.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from service.coordination.epochs import Epochs
from service.encoding import Encoder
from service.gallery.catalogue import Catalogue
from service.gallery.index import VectorIndex, WriteTime
from service.gallery.shops import HotShops
from service.inference.batcher import Batcher
from service.inference.bundle import Bundle
from service.inference.model import Model
from service.listening import Listener
from service.media.clips import ClipDecoder
from service.recognition import Recognizer
from service.serving import Serving
from service.settings import Settings
from service.settling import Projection
from service.telemetry import Telemetry


@dataclass(frozen=True)
class Opener:
    """Opens a bundle, with what all of them share; all of it is closed with `closing`."""

    settings: Settings
    decoder: ClipDecoder
    listener: Listener | None  # None: what is said in clips is not listened to
    catalogue: Catalogue
    epochs: Epochs
    telemetry: Telemetry
    batcher: Batcher
    written: WriteTime
    closing: ExitStack

    def open(self, bundle: Bundle) -> Serving:
        """Raises StartupError."""
        settings, catalogue = self.settings, self.catalogue
        model = Model.open(bundle, settings.inference, self.batcher)
        index = open_index(settings, bundle, catalogue, self.telemetry, self.written)
        self.closing.callback(index.close)
        shops = HotShops(index, self.epochs, settings.search)
        self.closing.callback(shops.close)
        return Serving(
            model=model,
            index=index,
            shops=shops,
            recognizer=Recognizer(
                model, self.decoder, shops, catalogue, settings.media, listener=self.listener
            ),
            projection=Projection(Encoder(model, catalogue, settings.media), index),
        )


def open_index(
    settings: Settings,
    bundle: Bundle,
    catalogue: Catalogue,
    telemetry: Telemetry,
    written: WriteTime,
) -> VectorIndex:
    """A catalogue's index for a bundle; to be closed. Raises StartupError, UnavailableError."""
    dims = bundle.manifest.dims
    return VectorIndex(
        settings.milvus,
        settings.data_dir / "milvus.db",
        catalogue_id=catalogue.own_id(),
        bundle_id=bundle.manifest.bundle_id,
        telemetry=telemetry,
        written=written,
        embedding=dims.embedding,
        match_state=dims.match_state,
    )
