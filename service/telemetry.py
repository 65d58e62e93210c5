"""What an operator sees in Prometheus: a table of metrics, and how they are told.

Names say what is measured, labels say of what; no name carries a model's. Nothing here knows where
the numbers come from.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from service.errors import ClientLeftError, DeadlineExceededError, LPRError
from service.tracing import trace_id

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
_PRODUCTS = (0, 1, 10, 100, 1_000, 10_000)
_SHARES = tuple(round(0.05 * step, 2) for step in range(1, 21))


class Manifest(Protocol):
    """What is asked of `service.inference.manifest.Manifest`."""

    @property
    def bundle_id(self) -> str: ...

    @property
    def precision(self) -> str: ...

    @property
    def metrics(self) -> Mapping[str, Any]: ...


class Totals(Collector):
    """A counter that is counted elsewhere: its totals since the start, by one label."""

    def __init__(
        self, name: str, documentation: str, label: str, registry: CollectorRegistry
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._label = label
        self.totals: dict[str, int] = {}
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self._name, self._documentation, labels=[self._label])
        for value, total in self.totals.items():
            family.add_metric([value], total)
        yield family


class Telemetry:
    """The metrics of one service, in a registry of their own.

    Every label is from a short list that the service or its operator wrote: a shop's id never is
    one, only its group's name.
    """

    def __init__(self, shop_groups: Mapping[str, str] | None = None) -> None:
        """`shop_groups`: a group's name by the pattern of its shops' ids, the first that fits."""
        self._shop_groups = dict(shop_groups or {})
        registry = self.registry = CollectorRegistry()
        for of_process in (ProcessCollector, PlatformCollector, GCCollector):
            of_process(registry=registry)
        counter = partial(Counter, registry=registry)
        gauge = partial(Gauge, registry=registry)
        histogram = partial(Histogram, registry=registry)
        seconds = partial(histogram, buckets=_SECONDS)
        share = partial(histogram, buckets=_SHARES)

        # Requests.
        self.ready = gauge("lpr_ready", "1 while the service takes requests")
        self.requests = counter("lpr_requests", "Answered requests", ("method", "route", "status"))
        self.request_seconds = seconds(
            "lpr_request_seconds",
            "From a request's head to the end of its answer",
            ("method", "route"),
        )
        self.failures = counter("lpr_failures", "Problem answers by their slug", ("reason",))
        self.in_flight = gauge("lpr_in_flight", "Admitted and not yet answered", ("kind",))
        self.queue_size = gauge("lpr_queue_size", "Admitted and waiting for a thread", ("kind",))

        # Recognitions, and how sure they are.
        self.stage_seconds = seconds(
            "lpr_stage_seconds",
            "Time of a recognition by stage; `total` is from its last byte to its answer, and "
            "`receive` from its head to its last byte",
            ("stage",),
        )
        self.candidates = histogram(
            "lpr_candidate_products", "Products that a clip was matched with", buckets=_PRODUCTS
        )
        self.decisions = counter(
            "lpr_decisions",
            "Recognitions by outcome: product or none",
            ("bundle", "shop_group", "outcome"),
        )
        self.confidence = share(
            "lpr_confidence", "Confidence of the best candidate", ("bundle", "shop_group")
        )
        self.margin = share(
            "lpr_margin",
            "Confidence of the best candidate above the second's",
            ("bundle", "shop_group"),
        )
        self.confidence_reference = gauge(
            "lpr_confidence_reference",
            "Share of clips up to a confidence when the bundle was exported",
            ("bundle", "le"),
        )

        # The model.
        self.model = gauge(
            "lpr_model_info",
            "1 for the bundle that is served, and the provider that really runs it",
            ("bundle", "precision", "provider"),
        )
        self.batch_queue_size = gauge(
            "lpr_batch_queue_size",
            "Clips or pictures that wait for their turn in an encoder",
            ("graph",),
        )
        self.batch_size = histogram(
            "lpr_batch_size",
            "Clips or pictures that an encoder ran together",
            ("graph",),
            buckets=_BATCHES,
        )
        self.batch_wait_seconds = seconds(
            "lpr_batch_wait_seconds",
            "From when a caller asked for its clip or pictures to be encoded to their turn",
            ("graph",),
        )
        self.batch_seconds = seconds(
            "lpr_batch_seconds", "Time of an encoder's run; there is one run at a time", ("graph",)
        )

        # The gallery.
        self.indexing_seconds = seconds("lpr_indexing_seconds", "Time of indexing one product")
        self.indexed_pictures = counter("lpr_indexed_pictures", "Pictures made searchable by posts")
        self.index_pictures = gauge("lpr_index_pictures", "Pictures in the index")
        self.index_pending = gauge(
            "lpr_index_pending_products", "Products accepted and not yet searchable"
        )
        self.index_lag = gauge(
            "lpr_index_lag_seconds", "Age of the oldest product accepted and not yet searchable"
        )
        self.jobs = gauge("lpr_jobs", "Jobs by state", ("state",))
        self.hot_shops_bytes = gauge("lpr_hot_shops_bytes", "Memory of the shops kept hot")
        self.hot_shop_lookups = Totals(
            "lpr_hot_shop_lookups", "Lookups of hot shops by result", "result", registry
        )

        # What the service stands on.
        self.index_up = gauge("lpr_index_up", "1 while Milvus answers")
        self.redis_up = gauge("lpr_redis_up", "1 while Redis takes writes")
        self.dependency_seconds = seconds(
            "lpr_dependency_seconds",
            "Time of a call to what the service stands on",
            ("dependency", "call"),
        )
        self.dependency_errors = counter(
            "lpr_dependency_errors",
            "Calls to what the service stands on that failed",
            ("dependency", "call"),
        )
        self._start()

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The metrics in the form that an `Accept` header asks for, and its content type.

        Exemplars are in the OpenMetrics form only.
        """
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def recognized(
        self,
        stages_ms: Mapping[str, float],
        confidences: list[float],
        *,
        decided: bool,
        shop_id: str,
        bundle_id: str,
    ) -> None:
        """One recognition, with the confidences of its candidate products, best first."""
        trace = trace_id()
        exemplar = {"trace_id": trace} if trace else None
        for stage, ms in stages_ms.items():
            self.stage_seconds.labels(stage).observe(ms / 1e3, exemplar)
        labels = (bundle_id, self._group(shop_id))
        self.decisions.labels(*labels, "product" if decided else "none").inc()
        self.candidates.observe(len(confidences))
        if confidences:
            best, second = (*confidences, 0.0)[:2]
            self.confidence.labels(*labels).observe(best, exemplar)
            self.margin.labels(*labels).observe(best - second, exemplar)

    def serves(self, manifest: Manifest, provider: str) -> None:
        """Tell which bundle is served, on what, and how sure it was when it was exported."""
        self.model.clear()
        self.confidence_reference.clear()
        self.model.labels(manifest.bundle_id, manifest.precision, provider).set(1)
        shares = manifest.metrics.get("confidence")  # a bundle need not tell
        for edge, share in shares.items() if isinstance(shares, dict) else ():
            if isinstance(share, float | int):
                self.confidence_reference.labels(manifest.bundle_id, edge).set(share)

    @contextmanager
    def call(self, dependency: str, call: str) -> Iterator[None]:
        """Time a call to something the service stands on, and count it if it raises: not where the
        request was over before it."""
        errors = self.dependency_errors.labels(dependency, call)
        start = time.perf_counter()
        try:
            yield
        except (DeadlineExceededError, ClientLeftError):
            raise
        except BaseException:
            errors.inc()
            raise
        finally:
            self.dependency_seconds.labels(dependency, call).observe(time.perf_counter() - start)

    def _start(self) -> None:
        """Tell of what has not happened yet: of a counter that begins with a failure, its first
        is never seen."""
        for kind in ("recognize", "gallery", "read"):
            self.in_flight.labels(kind)
            self.queue_size.labels(kind)
        for graph in ("image_encoder", "clip_encoder"):
            self.batch_queue_size.labels(graph)
            self.batch_size.labels(graph)
            self.batch_wait_seconds.labels(graph)
            self.batch_seconds.labels(graph)
        for state in ("queued", "running", "done", "dead"):
            self.jobs.labels(state)
        for problem in _problems(LPRError):
            self.failures.labels(problem)

    def _group(self, shop_id: str) -> str:
        fitting = (name for ids, name in self._shop_groups.items() if fnmatchcase(shop_id, ids))
        return next(fitting, "other")


def _problems(error: type[LPRError]) -> Iterator[str]:
    yield error.slug
    for kind in error.__subclasses__():
        yield from _problems(kind)
