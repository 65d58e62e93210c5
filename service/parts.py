"""The service's parts: opened in order, closed in reverse, and found by the API's handlers.

The API is up before its parts are: `/healthz` answers at once, everything that needs a part answers
503 until all of them are there.
"""

from __future__ import annotations

import fcntl
import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from service.admission import Admission, House
from service.coordination.epochs import Epochs
from service.coordination.filling import Filling
from service.coordination.idempotency import Idempotency
from service.coordination.locks import Locks
from service.coordination.private_server import PrivateRedis
from service.coordination.replicas import Replicas
from service.coordination.store import Store
from service.cores import cores
from service.errors import (
    CoordinationError,
    IndexUnavailableError,
    NotReadyError,
    StartupError,
)
from service.gallery.catalogue import Catalogue
from service.gallery.index import VectorIndex, WriteTime
from service.gallery.pending import Pending
from service.gallery.roles import RolesRecord
from service.gallery.storage import LocalStorage, Storage, open_storage
from service.indexing import Indexer
from service.inference.batcher import Batcher
from service.inference.gpus import Gpus
from service.inference.manifest import read_manifest
from service.inference.shelf import Shelf
from service.inference.speech import Whisper
from service.jobs.acceptance import Acceptance
from service.jobs.batch import BatchLimits
from service.jobs.queue import WorkQueue
from service.jobs.records import Jobs, JobState
from service.jobs.worker import Housekeeper, Worker
from service.keys import KeyRing
from service.listening import Listener
from service.media.clips import ClipDecoder
from service.media.remote_images import RemoteImages
from service.media.sound import SoundDecoder
from service.opening import Opener
from service.serving import Bundles, Serving
from service.settings import Settings
from service.settling import Gallery, Settler
from service.telemetry import Telemetry

logger = logging.getLogger(__name__)

_READS = 64  # of the catalogue at once: short, and of files
_WORKERS = 2  # while pictures of the one are encoded, the other reads, decodes and writes


@dataclass(frozen=True)
class Parts:
    bundles: Bundles
    decoder: ClipDecoder
    storage: Storage
    catalogue: Catalogue
    indexer: Indexer
    idempotency: Idempotency
    jobs: Jobs
    acceptance: Acceptance
    remote_images: RemoteImages


class Service:
    """One service: its settings, its telemetry, and its parts once they are open."""

    def __init__(self, settings: Settings) -> None:
        """Raises KeysError."""
        self.settings = settings
        self.telemetry = Telemetry(settings.metrics.shop_groups)
        self.keys = KeyRing(settings.keys_file, expected=settings.keys.file is not None)
        most = settings.max_in_flight
        # As many clips at once as their decoders keep the cores busy: more would only make each
        # slower. Posts go beside them, of which Milvus or a picture's host may hold one up.
        clips = max(1, cores() // settings.media.decode_threads)
        house = House(clips + 2, spare=1)
        self.recognitions = Admission(
            "recognize",
            self.telemetry,
            house,
            most=most,
            threads=clips,
            waiting=settings.max_waiting,
        )
        self.posts = Admission(
            "gallery",
            self.telemetry,
            house,
            most=most,
            threads=house.threads - 1,
            waiting=settings.max_waiting,
            finishes=True,
        )
        readers = max(2, cores())
        self.reads = Admission(
            "read", self.telemetry, House(readers), most=_READS, threads=readers, waiting=_READS
        )
        self.store: Store | None = None
        self.draining = threading.Event()
        self._parts: Parts | None = None
        self._stops: list[Callable[[], None]] = []  # of what runs for as long as the service
        self._closing = ExitStack()

    @property
    def parts(self) -> Parts:
        """Raises NotReadyError until everything is open."""
        if self._parts is None:
            raise NotReadyError("the service is starting; /readyz tells when it is ready")
        return self._parts

    @property
    def is_ready(self) -> bool:
        """False also while inference, which is this replica's own, is started again."""
        if self._parts is None or self.draining.is_set():
            return False
        bundles = self._parts.bundles
        return bundles.serving.model.runs and not bundles.is_behind

    def open_store(self) -> None:
        """Claim the data directory and open Redis; on the main thread, which outlives both.

        Raises StartupError.
        """
        data_dir = self.settings.data_dir
        try:
            claim(data_dir, self._closing)
            self.settings.spool_dir.mkdir(exist_ok=True)
        except OSError as error:
            raise StartupError(f"the data directory {data_dir} cannot be used: {error}") from error
        self.store = Store.at(
            self._redis_url(data_dir), self.settings.redis.timeout_s, self.telemetry
        )
        self._closing.callback(self.store.close)

    def open(self) -> None:
        """Open everything else and bring the index up to date; blocking, possibly for long.

        Raises StartupError, UnavailableError.
        """
        if self.store is None:
            raise StartupError("the store is opened first")
        settings, store = self.settings, self.store
        decoder = ClipDecoder(settings.media)
        logger.info("decoder", extra=decoder.describe())
        listener = _listener(settings)
        storage = open_storage(settings.catalogue, settings.data_dir / "catalogue")
        catalogue = Catalogue(storage)
        store = store.owned_by(catalogue.own_id())
        alone = isinstance(storage, LocalStorage)  # the data directory is claimed
        if isinstance(storage, LocalStorage):
            storage.sweep()
            catalogue.sweep()
        written = WriteTime()
        epochs = Epochs(store, written.latest, alone=alone)
        opener = Opener(
            settings=settings,
            decoder=decoder,
            listener=listener,
            catalogue=catalogue,
            epochs=epochs,
            telemetry=self.telemetry,
            batcher=Batcher(self.telemetry, wait_s=settings.inference.batch_wait_ms / 1e3),
            written=written,
            closing=self._closing.enter_context(ExitStack()),
        )
        bundles = self._open_bundles(storage, store, opener, alone=alone)
        pending = Pending(storage, alone=alone)
        gallery = Gallery(catalogue, bundles, epochs, pending, Locks(None if alone else store))
        jobs = Jobs(storage, settings.jobs.keep_s)
        settler = Settler(gallery, jobs.are_under_way)
        self._stop_with(settler.stop)
        self._settle(settler, bundles.serving.index, alone=alone)
        self._run("lpr-bundles", lambda: bundles.keep_in_step(settler))
        indexer = Indexer(gallery, settler)
        self._parts = Parts(
            bundles=bundles,
            decoder=decoder,
            storage=storage,
            catalogue=catalogue,
            indexer=indexer,
            idempotency=Idempotency(store),
            remote_images=RemoteImages(settings.image_urls),
            jobs=jobs,
            acceptance=self._open_jobs(jobs, indexer, store, bundles),
        )
        if settings.inference.provider != "cpu":
            self.telemetry.registry.register(Gpus())
        logger.info("ready", extra={"bundle": bundles.serving.bundle_id})

    def drain(self) -> None:
        """Say `unready` from now on, and start nothing long."""
        self.draining.set()
        for stop in self._stops:
            stop()

    def close(self) -> None:
        """Wait for running work, then close what was opened."""
        for admission in (self.recognitions, self.posts, self.reads):
            admission.close()
        self._closing.close()

    def _open_bundles(
        self, storage: Storage, store: Store, opener: Opener, *, alone: bool
    ) -> Bundles:
        """With the active one open."""
        settings = self.settings
        bundles = Bundles(
            RolesRecord(storage, read_manifest(settings.bundle).bundle_id),
            Shelf(settings.bundle, settings.bundles_folder),
            Filling(store),
            Replicas(store),
            open_bundle=opener.open,
            on_switch=self._tell_bundle,
            alone=alone,
        )
        self._stop_with(bundles.stop)
        bundles.open_active()
        return bundles

    def _settle(self, settler: Settler, index: VectorIndex, *, alone: bool) -> None:
        """Bring the index up to date, as far as it may not be, and keep it so."""
        if self.draining.is_set():
            raise NotReadyError("the service stops before its index agrees with its catalogue")
        if alone or index.embedded or index.is_filling:
            settler.reconcile()
        # Else the index was whole once, and every write since has left its marker until the index
        # had it: the sweep finishes those. To compare millions of records would only delay a start.
        self._run("lpr-sweeping", settler.keep_swept)

    def _open_jobs(
        self, jobs: Jobs, indexer: Indexer, store: Store, bundles: Bundles
    ) -> Acceptance:
        """Where work is taken in; threads of their own work it off."""
        settings = self.settings.jobs
        open_queue = partial(
            WorkQueue,
            store,
            takeover_s=settings.takeover_s,
            redis_timeout_s=self.settings.redis.timeout_s,
        )

        def tell(counts: Mapping[JobState, int]) -> None:
            for state, count in counts.items():
                self.telemetry.jobs.labels(state).set(count)
            with suppress(IndexUnavailableError):
                self.telemetry.index_pictures.set(bundles.serving.index.count())

        housekeeper = Housekeeper(jobs, tell)
        for _ in range(_WORKERS):
            worker = Worker(
                jobs, open_queue(), indexer, lambda: self.recognitions.is_busy, housekeeper
            )
            self._run("lpr-jobs", worker.run)
            self._stop_with(worker.stop)
        limits = BatchLimits(
            batch_bytes=settings.max_batch_bytes,
            item_bytes=self.settings.max_body_bytes,
            spool=self.settings.spool_dir,
        )
        acceptance = Acceptance(jobs, open_queue(), indexer, limits, settings.max_backlog)
        self._closing.callback(acceptance.close)
        return acceptance

    def _stop_with(self, stop: Callable[[], None]) -> None:
        """Let `drain` call it; at once where that was called already."""
        self._stops.append(stop)
        if self.draining.is_set():
            stop()

    def _run(self, name: str, work: Callable[[], None]) -> None:
        """In a thread of its own, which is waited for in the end."""
        thread = threading.Thread(target=work, name=name, daemon=True)
        thread.start()
        self._closing.callback(thread.join)

    def _tell_bundle(self, serving: Serving) -> None:
        self.telemetry.serves(serving.model.manifest, serving.model.providers[0])
        logger.info("serving", extra={"bundle": serving.bundle_id})

    def _redis_url(self, data_dir: Path) -> str:
        if self.settings.redis.url is not None:
            return self.settings.redis.url.get_secret_value()
        private = PrivateRedis(data_dir / "redis")
        self._closing.callback(private.stop)
        try:
            private.start()
        except CoordinationError as error:
            logger.error("going on without Redis: %s", error)
        return private.url


def claim(data_dir: Path, closing: ExitStack) -> None:
    """Make the directory ours until `closing`; what lies in it has one process.

    Raises StartupError.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        lock = closing.enter_context((data_dir / "lock").open("ab"))
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StartupError(f"another service is using the data directory {data_dir}") from error
    except OSError as error:
        raise StartupError(f"the data directory {data_dir} cannot be used: {error}") from error


def _listener(settings: Settings) -> Listener | None:
    """Raises StartupError."""
    folder = settings.speech.model
    if folder is None:
        return None
    recognizer = Whisper(folder, threads=settings.inference.threads)
    return Listener(SoundDecoder(settings.media), recognizer)
