"""What an operator sees: Prometheus metrics and a log of one JSON object a line.

Names say what is measured, labels say of what; no name carries a model's. Nothing here knows where
the numbers come from.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SHARES = tuple(round(0.05 * step, 2) for step in range(1, 21))
_PLAIN_RECORD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}


class Totals(Collector):
    """A counter that is counted elsewhere: its totals since the start, by one label."""

    def __init__(self, name: str, documentation: str, label: str) -> None:
        self._name = name
        self._documentation = documentation
        self._label = label
        self.totals: dict[str, int] = {}

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(self._name, self._documentation, labels=[self._label])
        for value, total in self.totals.items():
            family.add_metric([value], total)
        yield family


class Telemetry:
    """The metrics of one service, in a registry of their own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter(
            "lpr_requests", "Answered requests", ("method", "route", "status"), registry=registry
        )
        self.request_seconds = Histogram(
            "lpr_request_seconds",
            "From a request's head to the end of its answer",
            ("method", "route"),
            buckets=_SECONDS,
            registry=registry,
        )
        self.failures = Counter(
            "lpr_failures", "Problem answers by their slug", ("reason",), registry=registry
        )
        self.in_flight = Gauge(
            "lpr_in_flight", "Admitted and not yet answered", ("kind",), registry=registry
        )
        self.queue_size = Gauge(
            "lpr_queue_size", "Admitted and waiting for a thread", ("kind",), registry=registry
        )
        self.stage_seconds = Histogram(
            "lpr_stage_seconds",
            "Time of a recognition by stage",
            ("stage",),
            buckets=_SECONDS,
            registry=registry,
        )
        self.decisions = Counter(
            "lpr_decisions",
            "Recognitions by outcome: product or none",
            ("outcome",),
            registry=registry,
        )
        self.confidence = Histogram(
            "lpr_confidence",
            "Confidence of the best candidate",
            buckets=_SHARES,
            registry=registry,
        )
        self.margin = Histogram(
            "lpr_margin",
            "Confidence of the best candidate above the second's",
            buckets=_SHARES,
            registry=registry,
        )
        self.candidates = Histogram(
            "lpr_candidate_products",
            "Products that a clip was matched with",
            buckets=(0, 1, 10, 100, 1_000, 10_000),
            registry=registry,
        )
        self.indexing_seconds = Histogram(
            "lpr_indexing_seconds",
            "Time of indexing one product",
            buckets=_SECONDS,
            registry=registry,
        )
        self.indexed_pictures = Counter(
            "lpr_indexed_pictures", "Pictures made searchable by posts", registry=registry
        )
        self.hot_shops_bytes = Gauge(
            "lpr_hot_shops_bytes", "Memory of the shops kept hot", registry=registry
        )
        self.hot_shop_lookups = Totals(
            "lpr_hot_shop_lookups", "Lookups of hot shops by result", "result"
        )
        registry.register(self.hot_shop_lookups)
        self.redis_up = Gauge("lpr_redis_up", "1 while Redis answers", registry=registry)
        self.ready = Gauge("lpr_ready", "1 while the service takes requests", registry=registry)
        for kind in ("recognize", "gallery"):
            self.in_flight.labels(kind)
            self.queue_size.labels(kind)

    def exposition(self) -> tuple[bytes, str]:
        """The metrics as Prometheus reads them, and their content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST

    def recognized(
        self, stages_ms: Mapping[str, float], confidences: list[float], *, decided: bool
    ) -> None:
        """One recognition, with the confidences of its candidate products, best first."""
        for stage, ms in stages_ms.items():
            self.stage_seconds.labels(stage).observe(ms / 1e3)
        self.decisions.labels("product" if decided else "none").inc()
        self.candidates.observe(len(confidences))
        if confidences:
            best, second = (*confidences, 0.0)[:2]
            self.confidence.observe(best)
            self.margin.observe(best - second)


class JsonLines(logging.Formatter):
    """One object a line: time, level, logger, event, and whatever `extra` the caller gave."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _PLAIN_RECORD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_to_stderr(level: int = logging.INFO) -> None:
    """Send every logger of the process through one JSON handler."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for chatty in ("httpx", "milvus_lite", "uvicorn"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    pymilvus = logging.getLogger(
        "pymilvus"
    )  # brings a handler of its own, and warns of Lite's ways
    pymilvus.handlers.clear()
    pymilvus.setLevel(logging.ERROR)
