"""Traces as a collector, a caller and a Prometheus that asks for OpenMetrics see them."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from service.client import Client
from service.launch import running_service
from tests.integration.material import Shop

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}


@contextmanager
def collector() -> Iterator[tuple[str, queue.Queue[Span]]]:
    """The address of an OTLP collector on loopback, and the spans it was sent."""
    spans: queue.Queue[Span] = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        spans.put(span)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", spans
        server.shutdown()


def recognize(http: httpx.Client, shop: Shop, headers: dict[str, str]) -> httpx.Response:
    name, picture = next(iter(shop.pictures.items()))
    made = http.post(
        "/gallery", data={"shop_id": "traced", "product_id": name}, files={"images": picture}
    )
    assert made.status_code == 201, made.text
    return http.post(
        "/recognize", data={"shop_id": "traced"}, files={"clip": shop.clips[name]}, headers=headers
    )


def test_every_stage_of_a_request_is_a_span_of_the_callers_trace(
    tiny_bundle: Path, tmp_path: Path, shop: Shop
) -> None:
    with collector() as (endpoint, spans):
        with (
            running_service(
                tmp_path,
                LPR_BUNDLE=tiny_bundle,
                LPR_TRACING__OTLP_ENDPOINT=endpoint,
                LPR_DRAIN_S=0,
            ) as client,
            httpx.Client(base_url=client.base_url, trust_env=False, timeout=60) as http,
        ):
            answer = recognize(http, shop, CALLER)
        # Stopping the service has sent what was waiting.
        sent = [span for span in list(spans.queue) if span.trace_id.hex() == TRACE]
    assert answer.headers["traceparent"].split("-")[1] == TRACE
    [request] = [span for span in sent if span.kind == Span.SPAN_KIND_SERVER]
    assert request.name == "POST /recognize"
    assert request.parent_span_id.hex() == CALLER["traceparent"].split("-")[2]
    stages = {span.name for span in sent if span.parent_span_id == request.span_id}
    assert stages == {"decode", "encode", "search", "match"}


def test_nothing_is_sent_unless_asked_for_and_the_callers_trace_is_kept_all_the_same(
    http: httpx.Client, client: Client, shop: Shop
) -> None:
    answer = recognize(http, shop, CALLER)
    assert answer.headers["traceparent"].split("-")[1] == TRACE
    assert "traceparent" not in recognize(http, shop, {}).headers


def test_a_log_line_and_an_exemplar_name_the_trace(
    tiny_bundle: Path, tmp_path: Path, shop: Shop
) -> None:
    with (
        running_service(tmp_path, LPR_BUNDLE=tiny_bundle, LPR_DRAIN_S=0) as client,
        httpx.Client(base_url=client.base_url, trust_env=False, timeout=60) as http,
    ):
        recognize(http, shop, CALLER)
        accept = {"accept": "application/openmetrics-text; version=1.0.0"}
        metrics = http.get("/metrics", headers=accept)
    families = {family.name: family for family in text_string_to_metric_families(metrics.text)}
    exemplars = [
        sample.exemplar.labels["trace_id"]
        for sample in families["lpr_stage_seconds"].samples
        if sample.exemplar is not None
    ]
    assert set(exemplars) == {TRACE}
    lines = [json.loads(line) for line in (tmp_path / "service.log").read_text().splitlines()]
    [line] = [line for line in lines if line.get("path") == "/recognize"]
    assert line["trace_id"] == TRACE
