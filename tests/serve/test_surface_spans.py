"""Spans of requests, at a collector of our own that takes OTLP over HTTP."""

import contextlib
import http.server
import json
import re
import threading

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from starloom.serve.gateway.spans import NoTelemetry, Spans, passed_on
from starloom.site import Telemetry

from surface_fixtures import fakes, site_of, stream, surface, whole

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Collector(http.server.ThreadingHTTPServer):
    """Keeps the spans that it is sent."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Taker)
        self.spans = []
        self.raw = b""
        self.services = set()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def attributes(self, at=0):
        return {item.key: value_of(item.value) for item in self.spans[at].attributes}


class _Taker(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        data = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            import gzip

            data = gzip.decompress(data)
        self.server.raw += data
        assert self.path == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(data).resource_spans:
            named = {item.key: value_of(item.value) for item in resource.resource.attributes}
            self.server.services.add(named["service.name"])
            for scope in resource.scope_spans:
                self.server.spans += scope.spans
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def value_of(value):
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [value_of(item) for item in value.array_value.values]
    return getattr(value, kind)


@pytest.fixture
def collector():
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(5)


@contextlib.contextmanager
def spanned(tmp_path, collector, fake=None, **more):
    telemetry = Telemetry(otlp_endpoint=collector.url, service_name="shop")
    site = site_of(tmp_path, "http://127.0.0.1:1").model_copy(update={"telemetry": telemetry})
    spans = Spans.from_site(site)
    with surface(tmp_path, fake, spans=spans, **more) as gate:
        yield gate


def test_a_request_is_a_span(tmp_path, collector):
    """Names, counts and times of its record, by the conventions' names; no text of either side."""
    fake = fakes((b"", stream({"content": "an ANSWER"})))
    with spanned(tmp_path, collector, fake) as gate:
        gate.headers["traceparent"] = PARENT
        assert gate.chat("a PROMPT", stream=True).status_code == 200
    (span,) = collector.spans
    assert collector.services == {"shop"}
    assert (span.name, span.kind) == ("chat m", 2)
    assert span.trace_id.hex() == PARENT.split("-")[1]
    assert span.parent_span_id.hex() == PARENT.split("-")[2]
    shown = collector.attributes()
    first = shown.pop("gen_ai.response.time_to_first_chunk")
    assert 0 < first * 1e9 <= span.end_time_unix_nano - span.start_time_unix_nano
    assert shown.pop("starloom.request_id")
    assert shown == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "starloom",
        "gen_ai.request.model": "m",
        "gen_ai.request.stream": True,
        "gen_ai.response.model": "m",
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.cache_read.input_tokens": 5,
        "gen_ai.usage.output_tokens": 3,
        "http.response.status_code": 200,
        "starloom.tenant": "acme",
        "starloom.workers": ["w0"],
        "url.path": "/v1/chat/completions",
    }
    assert span.events[0].name == "parse"
    assert b"PROMPT" not in collector.raw
    assert b"ANSWER" not in collector.raw


def test_upstreams_are_told_the_gateways_span(tmp_path, collector):
    """Their spans hang below ours, within the client's trace or one of its own."""
    fake = fakes((whole({"content": "a"}), b""))
    with spanned(tmp_path, collector, fake) as gate:
        gate.chat()
        gate.headers["traceparent"] = PARENT
        gate.headers["tracestate"] = "a=b"
        gate.chat()
    for span, asked in zip(collector.spans, fake.seen, strict=True):
        trace, parent = span.trace_id.hex(), span.span_id.hex()
        assert asked.headers["traceparent"].startswith(f"00-{trace}-{parent}-0")
    assert fake.seen[1].headers["tracestate"] == "a=b"


def test_errors_are_told_by_their_code(tmp_path, collector):
    """A client's fault is no fault of ours; one of ours marks the span."""
    fake = fakes((b'{"error": "x"}', b""))
    with spanned(tmp_path, collector, fake) as gate:
        gate.chat(max_tokens=0)
        fake.status = 500
        gate.chat()
    kinds = [collector.attributes(at)["error.type"] for at in range(2)]
    assert kinds == ["invalid_value", "no_worker_available"]
    assert [span.status.code for span in collector.spans] == [0, 2]


def test_traces_that_are_not_sampled_are_not_sent(tmp_path, collector):
    with spanned(tmp_path, collector, fakes((whole({"content": "a"}), b""))) as gate:
        gate.headers["traceparent"] = PARENT[:-1] + "0"
        assert gate.chat().status_code == 200
    assert not collector.spans


def test_without_spans_the_clients_trace_goes_on_as_it_is(tmp_path):
    """To servers elsewhere, where it is well formed."""
    fake = fakes((whole({"content": "a"}), b""))
    with surface(tmp_path, fake) as gate:
        for parent in (PARENT, "nonsense"):
            gate.headers["traceparent"] = parent
            gate.chat()
    assert [asked.headers.get("traceparent") for asked in fake.seen] == [PARENT, None]
    assert passed_on({b"traceparent": PARENT.encode(), b"tracestate": b"a=b"}) == (
        f"traceparent: {PARENT}\r\ntracestate: a=b\r\n".encode()
    )


def test_spans_are_off_by_default_and_on_by_the_standard_variables(tmp_path, monkeypatch):
    """The variables of OpenTelemetry switch them on and off without a word in the site."""
    site = site_of(tmp_path, "http://127.0.0.1:1")
    assert Spans.from_site(site) is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    spans = Spans.from_site(site)
    assert spans is not None
    spans.close()
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert Spans.from_site(site) is None


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    """Where the site asks for spans, it is an error; the message says what to install."""
    monkeypatch.setitem(
        __import__("sys").modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None
    )
    telemetry = Telemetry(otlp_endpoint="http://127.0.0.1:1")
    site = site_of(tmp_path, "http://127.0.0.1:1").model_copy(update={"telemetry": telemetry})
    with pytest.raises(NoTelemetry, match=re.escape("starloom[otel]")):
        Spans.from_site(site)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    assert Spans.from_site(site_of(tmp_path, "http://127.0.0.1:1")) is None
    assert json.dumps(telemetry.model_dump())
