"""OpenTelemetry traces: one span a request and one a stage, handed on in W3C's `traceparent`.

Whoever works opens spans through OpenTelemetry's API, which costs next to nothing while nobody
listens; `export_spans` is what makes somebody listen. Off by default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version

from opentelemetry import context, propagate, trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from service.settings import TracingSettings

_tracer = trace.get_tracer("lpr")


def export_spans(settings: TracingSettings) -> Callable[[], None]:
    """Send spans to the collector of the settings, if there is one; returns how to end that.

    A collector that does not answer costs no request anything: spans wait in a bounded queue.
    """
    if settings.otlp_endpoint is None:
        return lambda: None
    resource = Resource.create({"service.name": "lpr", "service.version": version("lpr")})
    provider = TracerProvider(
        resource=resource, sampler=ParentBased(TraceIdRatioBased(settings.sampled_share))
    )
    provider.add_span_processor(
        BatchSpanProcessor(OTLPSpanExporter(endpoint=settings.otlp_endpoint))
    )
    trace.set_tracer_provider(provider)
    return provider.shutdown


@contextmanager
def callers_trace(headers: Mapping[str, str]) -> Iterator[None]:
    """The trace that a request's headers name, for logs and exemplars, where nobody opened a span.

    Where spans are exported, FastAPI has opened one already, as a child of the caller's.
    """
    if trace.get_current_span().get_span_context().is_valid:
        yield
        return
    token = context.attach(propagate.extract(headers))
    try:
        yield
    finally:
        context.detach(token)


@contextmanager
def stage_span(stage: str) -> Iterator[None]:
    """A part of the current request's work."""
    with _tracer.start_as_current_span(stage):
        yield


def trace_id() -> str | None:
    """The current trace, in the 32 hex digits that logs and exemplars carry; None outside one."""
    current = trace.get_current_span().get_span_context()
    return trace.format_trace_id(current.trace_id) if current.is_valid else None


def traceparent() -> dict[str, str]:
    """W3C headers that hand the current trace on; none outside one."""
    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers
