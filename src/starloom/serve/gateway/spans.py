"""Spans of OpenTelemetry: one a request, described by its `Record` when the request is over.

Names are those of the conventions for generative AI (`gen_ai.*`). Times, counts and names go in,
never a text of a prompt or of an answer.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from starloom.serve.gateway.record import Record, Tracker
from starloom.site import Site

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

_log = logging.getLogger(__name__)

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_STREAM = "gen_ai.request.stream"
RESPONSE_MODEL = "gen_ai.response.model"
TIME_TO_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
ERROR = "error.type"
STATUS = "http.response.status_code"
PATH = "url.path"
TENANT = "starloom.tenant"
REQUEST_ID = "starloom.request_id"
WORKERS = "starloom.workers"

_OPERATIONS = {
    "/v1/chat/completions": "chat",
    "/v1/messages": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
}
_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_FIELDS = ("traceparent", "tracestate")
_PARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?")
_STATE = re.compile(rb"[ -~]{1,512}")


class NoTelemetry(ImportError):
    """The extra is not installed."""


class Spans:
    """Begins and ends spans. `provider` samples and exports them."""

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("starloom.gateway")
        self._context = TraceContextTextMapPropagator()

    @classmethod
    def from_site(cls, site: Site) -> Spans | None:
        """Spans where the site or the standard variables name a collector.

        Raises `NoTelemetry` where the site does and the extra `otel` is missing.
        """
        stated = site.telemetry.otlp_endpoint
        if stated is None and not any(os.environ.get(name) for name in _VARIABLES):
            return None
        if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
            return None
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            what = "spans need the extra `otel`: pip install 'starloom[otel]'"
            if stated is not None:
                raise NoTelemetry(what) from error
            _log.warning(what)
            return None
        name = os.environ.get("OTEL_SERVICE_NAME") or site.telemetry.service_name
        provider = TracerProvider(resource=Resource.create({"service.name": name}))
        endpoint = None if stated is None else stated.rstrip("/") + "/v1/traces"
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
        return cls(provider)

    def begin(self, fields: Mapping[bytes, bytes], tracker: Tracker) -> Span:
        """A request's span, within the client's trace if it tells one; upstreams are told ours."""
        from opentelemetry.trace import SpanKind, set_span_in_context

        carried = {
            name: fields[name.encode()].decode("latin-1")
            for name in _FIELDS
            if name.encode() in fields
        }
        span = self._tracer.start_span(
            "request",
            context=self._context.extract(carried),
            kind=SpanKind.SERVER,
            start_time=int(tracker.record.at * 1e9),
        )
        told: dict[str, str] = {}
        self._context.inject(told, context=set_span_in_context(span))
        tracker.passed = "".join(f"{name}: {value}\r\n" for name, value in told.items()).encode()
        return span

    def end(self, span: Span, record: Record) -> None:
        """The request is over: the span says what its record says."""
        from opentelemetry.trace import StatusCode

        start_ns = int(record.at * 1e9)
        if span.is_recording():
            operation = _operation(record.path)
            span.update_name(f"{operation} {record.model}" if record.model else operation)
            span.set_attributes(_attributes(record, operation))
            for step in record.steps:
                span.add_event(step.name, timestamp=start_ns + int(step.at_ms * 1e6))
            if record.outcome not in ("ok", "cancelled") and not 400 <= record.status < 500:
                span.set_status(StatusCode.ERROR)
        span.end(start_ns + int(record.total_ms * 1e6))

    def close(self) -> None:
        """Send what is left. May take seconds."""
        self._provider.shutdown()


def passed_on(fields: Mapping[bytes, bytes]) -> bytes:
    """Header lines of the client's trace for upstreams, where we make no span of our own."""
    parent, state = fields.get(b"traceparent"), fields.get(b"tracestate")
    if parent is None or not _PARENT.fullmatch(parent):
        return b""
    lines = b"traceparent: %b\r\n" % parent
    if state is not None and _STATE.fullmatch(state):
        lines += b"tracestate: %b\r\n" % state
    return lines


def _operation(path: str) -> str:
    return _OPERATIONS.get(path) or path.rpartition("/")[2]


def _attributes(record: Record, operation: str) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        OPERATION: operation,
        PROVIDER: "starloom",
        PATH: record.path,
        STATUS: record.status,
        TENANT: record.tenant,
        REQUEST_ID: record.id,
        REQUEST_STREAM: record.stream,
        INPUT_TOKENS: record.prompt_tokens,
        CACHED_TOKENS: record.cached_tokens,
        OUTPUT_TOKENS: record.completion_tokens,
    }
    if record.model:
        attributes |= {REQUEST_MODEL: record.model, RESPONSE_MODEL: record.model}
    if record.workers:
        attributes[WORKERS] = [record.workers[at] for at in sorted(record.workers)]
    if record.ttft_ms is not None:
        attributes[TIME_TO_FIRST_CHUNK] = record.ttft_ms / 1e3
    if record.outcome != "ok":
        attributes[ERROR] = record.outcome
    return attributes
