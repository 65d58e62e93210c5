"""The service's parts: opened in order, closed in reverse, and found by the API's handlers.

The API is up before its parts are: `/healthz` answers at once, everything that needs a part answers
503 until all of them are there.
"""

from __future__ import annotations

import fcntl
import logging
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from service.admission import Admission
from service.coordination.epochs import Epochs
from service.coordination.idempotency import Idempotency
from service.coordination.locks import Locks
from service.coordination.private_server import PrivateRedis
from service.coordination.store import Store
from service.encoding import Encoder
from service.errors import CoordinationError, NotReadyError, StartupError
from service.gallery.catalogue import Catalogue
from service.gallery.index import VectorIndex, WriteTime
from service.gallery.pending import Pending
from service.gallery.shops import HotShops
from service.gallery.storage import LocalStorage, Storage, open_storage
from service.indexing import Indexer
from service.inference.bundle import Bundle
from service.inference.gpus import Gpus
from service.inference.model import Model
from service.inference.session import cores
from service.jobs.acceptance import Acceptance
from service.jobs.batch import BatchLimits
from service.jobs.queue import WorkQueue
from service.jobs.records import Jobs, JobState
from service.jobs.worker import Worker
from service.keys import KeyRing
from service.media.clips import ClipDecoder
from service.media.remote_images import RemoteImages
from service.recognition import Recognizer
from service.settings import Settings
from service.settling import Gallery, Settler
from service.telemetry import Telemetry

logger = logging.getLogger(__name__)

_READS = 64  # of the catalogue at once: short, and of files


@dataclass(frozen=True)
class Parts:
    model: Model
    decoder: ClipDecoder
    storage: Storage
    catalogue: Catalogue
    index: VectorIndex
    shops: HotShops
    indexer: Indexer
    recognizer: Recognizer
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
        # More at once than this would only make each slower: every one uses several cores itself.
        self.recognitions = Admission(
            "recognize",
            self.telemetry,
            most=most,
            threads=max(1, cores() // 2),
            waiting=settings.max_waiting,
        )
        self.posts = Admission(
            "gallery",
            self.telemetry,
            most=most,
            threads=max(2, cores()),
            waiting=settings.max_waiting,
            finishes=True,
        )
        self.reads = Admission(
            "read", self.telemetry, most=_READS, threads=max(2, cores()), waiting=_READS
        )
        self.store: Store | None = None
        self.draining = threading.Event()
        self._parts: Parts | None = None
        self._settler: Settler | None = None
        self._worker: Worker | None = None
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
        parts = self._parts
        return parts is not None and parts.model.runs and not self.draining.is_set()

    def open_store(self) -> None:
        """Claim the data directory and open Redis; on the main thread, which outlives both.

        Raises StartupError.
        """
        data_dir = self.settings.data_dir
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            self.settings.spool_dir.mkdir(exist_ok=True)
            self._claim(data_dir)
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
        settings = self.settings
        model = Model.open(Bundle.load(settings.bundle), settings.inference)
        decoder = ClipDecoder(settings.media)
        sandbox = {"sandbox": decoder.sandbox(), "file_system": decoder.file_system}
        logger.info("decoder", extra=sandbox)
        storage = open_storage(settings.catalogue, settings.data_dir / "catalogue")
        catalogue = Catalogue(storage)
        alone = isinstance(storage, LocalStorage)  # the data directory is claimed
        if isinstance(storage, LocalStorage):
            storage.sweep()
            catalogue.sweep()
        dims = model.manifest.dims
        written = WriteTime()
        index = VectorIndex(
            settings.milvus,
            settings.data_dir / "milvus.db",
            bundle_id=model.manifest.bundle_id,
            telemetry=self.telemetry,
            written=written,
            embedding=dims.embedding,
            match_state=dims.match_state,
        )
        self._closing.callback(index.close)
        epochs = Epochs(self.store, written.latest)
        shops = HotShops(index, epochs, settings.search)
        self._closing.callback(shops.close)
        pending = Pending(storage, alone=alone)
        locks = Locks(None if alone else self.store)
        encoder = Encoder(model, catalogue, settings.media)
        gallery = Gallery(catalogue, index, epochs, pending, locks)
        settler = self._settler = Settler(encoder, gallery)
        if self.draining.is_set():
            raise NotReadyError("the service stops before its index agrees with its catalogue")
        settler.reconcile()
        sweeping = threading.Thread(target=settler.keep_swept, name="lpr-sweeping", daemon=True)
        sweeping.start()
        self._closing.callback(sweeping.join)
        indexer, jobs = Indexer(encoder, gallery, settler), Jobs(storage, settings.jobs.keep_s)
        self._parts = Parts(
            model=model,
            decoder=decoder,
            storage=storage,
            catalogue=catalogue,
            index=index,
            shops=shops,
            indexer=indexer,
            recognizer=Recognizer(model, decoder, shops, catalogue, settings.media),
            idempotency=Idempotency(self.store),
            remote_images=RemoteImages(settings.image_urls),
            jobs=jobs,
            acceptance=self._open_jobs(jobs, indexer, self.store),
        )
        self.telemetry.serves(model.manifest, model.providers[0])
        if settings.inference.provider != "cpu":
            self.telemetry.registry.register(Gpus())
        logger.info("ready", extra={"bundle": model.manifest.bundle_id})

    def drain(self) -> None:
        """Say `unready` from now on, and start nothing long."""
        self.draining.set()
        if self._settler is not None:
            self._settler.stop()
        if self._worker is not None:
            self._worker.stop()

    def close(self) -> None:
        """Wait for running work, then close what was opened."""
        for admission in (self.recognitions, self.posts, self.reads):
            admission.close()
        self._closing.close()

    def _open_jobs(self, jobs: Jobs, indexer: Indexer, store: Store) -> Acceptance:
        """Where work is taken in; a thread of its own works it off."""
        settings = self.settings
        queue = WorkQueue(
            store,
            takeover_s=settings.jobs.takeover_s,
            redis_timeout_s=settings.redis.timeout_s,
        )

        def tell(counts: Mapping[JobState, int]) -> None:
            for state, count in counts.items():
                self.telemetry.jobs.labels(state).set(count)

        worker = self._worker = Worker(
            jobs, queue, indexer, lambda: self.recognitions.is_busy, tell
        )
        working = threading.Thread(target=worker.run, name="lpr-jobs", daemon=True)
        working.start()
        self._closing.callback(working.join)
        if self.draining.is_set():  # asked to stop before there was somebody to stop
            worker.stop()
        limits = BatchLimits(
            batch_bytes=settings.jobs.max_batch_bytes,
            item_bytes=settings.max_body_bytes,
            spool=settings.spool_dir,
        )
        acceptance = Acceptance(jobs, queue, indexer, limits, settings.jobs.max_backlog)
        self._closing.callback(acceptance.close)
        return acceptance

    def _claim(self, data_dir: Path) -> None:
        """The catalogue has one writer: refuse a second service on the same directory."""
        lock = self._closing.enter_context((data_dir / "lock").open("ab"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StartupError(f"another service is using the data directory {data_dir}") from error

    def _redis_url(self, data_dir: Path) -> str:
        if self.settings.redis.url is not None:
            return self.settings.redis.url
        private = PrivateRedis(data_dir / "redis")
        self._closing.callback(private.stop)
        try:
            private.start()
        except CoordinationError as error:
            logger.error("going on without Redis: %s", error)
        return private.url
