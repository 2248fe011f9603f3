"""What the gateway counts, for Prometheus. One registry an app: no module state."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from starloom.serve.gateway.record import Record
from starloom.serve.gateway.workers import Workers
from starloom.serve.signals import Load

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_TPOT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1)


Samples = dict[str, dict[str, float]]
"""Family -> sample, as it stands in a page, -> value."""


class _OfModel(NamedTuple):
    """One model's children, looked up once."""

    total: Histogram
    ttft: Histogram
    tpot: Histogram
    tokens: list[tuple[str, Counter]]


class Metrics:
    """Counters and histograms of requests. `seen` costs a few microseconds."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        """What only grows: the sum over the site's gateways is shown."""
        self.now = CollectorRegistry()
        """What holds now, and is the same whoever is asked."""
        registry = self.registry
        self._requests = Counter(
            "starloom_requests_total",
            "Requests by how they ended",
            ["model", "tenant", "outcome"],
            registry=registry,
        )
        self._ttft = _histogram("starloom_ttft_seconds", "Time to first token", registry)
        self._total = _histogram("starloom_request_seconds", "Time of a request", registry)
        self._tpot = _histogram(
            "starloom_tpot_seconds", "Time per output token", registry, _TPOT_SECONDS
        )
        self._tokens = {
            field: Counter(f"starloom_{name}_tokens_total", what, ["model"], registry=registry)
            for field, name, what in (
                ("prompt_tokens", "prompt", "Tokens of prompts"),
                ("cached_tokens", "cached", "Tokens of prompts whose KV was reused"),
                ("pool_tokens", "pool", "The part of these that came out of the pool"),
                ("completion_tokens", "generated", "Tokens of answers"),
            )
        }
        self._verdicts = Counter(
            "starloom_guard_verdicts_total",
            "What the guard did",
            ["where", "action"],
            registry=registry,
        )
        self._by_outcome: dict[tuple[str, str, str], Counter] = {}
        self._by_model: dict[str, _OfModel] = {}

    def seen(self, record: Record) -> None:
        """A request is over. `record.model` is a model of the site, or empty."""
        key = (record.model, record.tenant, record.outcome)
        requests = self._by_outcome.get(key)
        if requests is None:
            requests = self._by_outcome[key] = self._requests.labels(*key)
        requests.inc()
        if not record.model:
            return
        model = self._by_model.get(record.model)
        if model is None:
            model = self._by_model[record.model] = self._of_model(record.model)
        model.total.observe(record.total_ms / 1e3)
        if record.ttft_ms is not None:
            model.ttft.observe(record.ttft_ms / 1e3)
        if record.tpot_ms is not None:
            model.tpot.observe(record.tpot_ms / 1e3)
        for field, counter in model.tokens:
            if count := getattr(record, field):
                counter.inc(count)

    def _of_model(self, name: str) -> "_OfModel":
        return _OfModel(
            self._total.labels(name),
            self._ttft.labels(name),
            self._tpot.labels(name),
            [(field, counter.labels(name)) for field, counter in self._tokens.items()],
        )

    def guarded(self, where: str, action: str) -> None:
        """The guard blocked or masked something."""
        self._verdicts.labels(where, action).inc()

    def samples(self) -> Samples:
        """What was counted here, for other gateways of the site to add to theirs."""
        return _samples(generate_latest(self.registry).decode())

    def page(self, others: Iterable[Samples] = ()) -> bytes:
        """What was counted here and by `others`, then what holds now."""
        page = generate_latest(self.registry)
        others = list(others)
        if others:
            page = _added(page.decode(), others).encode()
        return page + generate_latest(self.now)


class KeyMetrics(Collector):
    """Failed keys, read when the page is asked for."""

    def __init__(self, failed_keys: Callable[[], int]) -> None:
        self._failed_keys = failed_keys

    def collect(self) -> Iterable[Metric]:
        failed = CounterMetricFamily("starloom_failed_keys", "Requests with a wrong key or none")
        failed.add_metric([], self._failed_keys())
        yield failed


class WorkerMetrics(Collector):
    """Read from the workers' own reports when the page is asked for."""

    def __init__(self, workers: Workers, told: Callable[[str], Load | None]) -> None:
        """`told`: what a server elsewhere said of itself, while that is fresh."""
        self._workers = workers
        self._told = told

    def collect(self) -> Iterable[Metric]:
        engines = self._workers.engines
        reports = {name: engine.report() for name, engine in engines.items()}
        waiting = {name: float(report.waiting) for name, report in reports.items()}
        usage: dict[str, float] = {}
        for name in engines:
            load = self._told(name)
            if load is not None:
                waiting[name] = float(load.waiting)
                if load.kv_usage is not None:
                    usage[name] = load.kv_usage
        up = {name: float(self._workers.is_up(name)) for name in engines}
        used = {name: float(report.kv_blocks_used) for name, report in reports.items()}
        yield _gauge("requests_running", "Unfinished", self._workers.table.outstanding())
        yield _gauge("worker_up", "Whether it takes requests", up)
        yield _gauge("worker_waiting", "Queued", waiting)
        yield _gauge("worker_kv_usage", "Share of KV in use, as a server elsewhere says", usage)
        yield _gauge("kv_blocks", "KV blocks", {n: r.kv_blocks for n, r in reports.items()})
        yield _gauge("kv_blocks_used", "KV blocks that running sequences hold", used)


def _samples(page: str) -> Samples:
    """The samples of a page by their families, but for the times at which counting began."""
    found: Samples = {}
    family: dict[str, float] = {}
    for line in page.splitlines():
        if line.startswith("# TYPE "):
            name = line.split(" ", 3)[2]
            family = {} if name.endswith("_created") else found.setdefault(name, {})
        elif line and not line.startswith("#"):
            sample, _, value = line.rpartition(" ")
            family[sample] = float(value)
    return found


def _added(page: str, others: Sequence[Samples]) -> str:
    """A page with others' samples added, each family in its place."""
    totals = _samples(page)
    for samples in others:
        for name, family in samples.items():
            total = totals.setdefault(name, {})
            for sample, value in family.items():
                total[sample] = total.get(sample, 0.0) + value
    lines = []
    for line in page.splitlines():
        if line.startswith("# HELP "):
            lines.append(line)
        elif line.startswith("# TYPE "):
            lines.append(line)
            family = totals.get(line.split(" ", 3)[2], {})
            lines += [f"{sample} {value}" for sample, value in family.items()]
    return "\n".join(lines) + "\n"


def _gauge(name: str, what: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"starloom_{name}", what, labels=["worker"])
    for worker, value in values.items():
        family.add_metric([worker], value)
    return family


def _histogram(
    name: str, what: str, registry: CollectorRegistry, buckets: tuple[float, ...] = _SECONDS
) -> Histogram:
    return Histogram(name, what, ["model"], registry=registry, buckets=buckets)
