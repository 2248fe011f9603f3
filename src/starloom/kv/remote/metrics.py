"""What a node tells its operator, over HTTP on loopback: /metrics, /health and /stat."""

import logging
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from starloom.kv.remote.base import NodeStat, TenantStat
from starloom.kv.remote.frames import Op

_BUCKETS_S = tuple(base * 10.0**power for power in range(-5, 1) for base in (1, 2, 5))
_HOSTS = ("127.0.0.1", "localhost")
_OPS = (Op.LOOKUP, Op.GET, Op.PUT, Op.STAT)
_log = logging.getLogger("starloom.kv.remote")


class NodeMetrics(Collector):
    """Counters are read when they are asked for; only latencies are counted as they happen."""

    def __init__(self, stat: Callable[[], NodeStat]) -> None:
        self._stat = stat
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        took = Histogram(
            "starloom_kv_seconds",
            "From a question's last byte to its answer's last byte",
            ["op"],
            buckets=_BUCKETS_S,
            registry=self._registry,
        )
        self._took = {op: took.labels(op.name.lower()) for op in _OPS}

    def took(self, op: Op, seconds: float) -> None:
        if op in self._took:
            self._took[op].observe(seconds)

    def page(self) -> bytes:
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        stat = self._stat()
        tenants = stat.tenants
        hits = CounterMetricFamily(
            "starloom_kv_hit_blocks",
            "Blocks sent, by the tier they were in",
            labels=["tenant", "tier"],
        )
        for name, each in tenants.items():
            hits.add_metric([name, "memory"], each.memory_hit_blocks)
            hits.add_metric([name, "ssd"], each.ssd_hit_blocks)
        yield hits
        yield _by_tenant(tenants, "missed_blocks", "Blocks asked for and not held")
        yield _by_tenant(tenants, "put_blocks", "Blocks stored")
        yield _by_tenant(tenants, "bad_blocks", "Blocks that came with a wrong sum")
        yield _by_tenant(tenants, "got_bytes", "Bytes of blocks sent")
        yield _by_tenant(tenants, "put_bytes", "Bytes of blocks stored")
        what = "Blocks that left without ever having been read"
        yield _by_tenant(tenants, "never_read_blocks", what)
        pool = stat.pool
        if pool is not None:
            yield _gauge("slots", "In memory", pool.slots)
            yield _gauge("blocks", "Held in memory", pool.blocks)
            yield _gauge("pinned_blocks", "Being sent now", pool.pinned_blocks)
            yield _gauge("ssd_slots", "On disk", pool.ssd_slots)
            yield _gauge("ssd_blocks", "Held on disk", pool.ssd_blocks)
            yield _count("evicted_blocks", "Out of memory", pool.evicted_blocks)
            yield _count("ssd_evicted_blocks", "Out of the disk", pool.ssd_evicted_blocks)
            yield _count("ssd_bad_blocks", "Torn or corrupted on disk", pool.ssd_bad_blocks)
            yield _count("ssd_errors", "Of the disk", pool.ssd_errors)
        yield _gauge("connections", "Open now", stat.connections)
        yield _gauge("healthy", "1 when all works", stat.state != "ill")


def _by_tenant(tenants: dict[str, TenantStat], field: str, text: str) -> Metric:
    family = CounterMetricFamily(f"starloom_kv_{field}", text, labels=["tenant"])
    for name, each in tenants.items():
        family.add_metric([name], getattr(each, field))
    return family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"starloom_kv_{name}", text, value=float(value))


def _count(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(f"starloom_kv_{name}", text, value=float(value))


class Pages:
    """An HTTP server on loopback, for the operator and a scraper beside it."""

    def __init__(self, port: int, stat: Callable[[], NodeStat], metrics: NodeMetrics) -> None:
        """Port 0 lets the system choose. Raises OSError."""

        class Handler(BaseHTTPRequestHandler):
            timeout = 5.0

            def do_GET(self) -> None:
                # A page in a browser on this machine may reach us by a name of its own.
                if self.headers.get("Host", "").rpartition(":")[0] not in _HOSTS:
                    self._say(403, b'{"error": "ask by 127.0.0.1 or localhost"}')
                    return
                match self.path:
                    case "/metrics":
                        self._say(200, metrics.page(), "text/plain; version=0.0.4")
                    case "/health":
                        now = stat()
                        body = {"state": now.state, "why": now.why}
                        self._say(503 if now.state == "ill" else 200, msgspec.json.encode(body))
                    case "/stat":
                        self._say(200, msgspec.json.encode(stat()))
                    case _:
                        self._say(404, b'{"error": "there are /metrics, /health and /stat"}')

            def _say(self, status: int, body: bytes, kind: str = "application/json") -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's
                _log.debug(format, *args)

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="kv-pages", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
