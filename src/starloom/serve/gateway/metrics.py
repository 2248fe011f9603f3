"""What the gateway counts, for Prometheus. One registry an app: no module state."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from starloom.serve.gateway.record import Record
from starloom.serve.gateway.tallies import Spread, Tally
from starloom.serve.gateway.workers import Workers
from starloom.serve.schedule import Role
from starloom.serve.signals import Load

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_TPOT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1)


Samples = dict[str, dict[str, float]]
"""Family -> sample, as it stands in a page, -> value."""


class Metrics:
    """Counters and histograms of requests."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        """What only grows: the sum over the site's gateways is shown."""
        self.now = CollectorRegistry()
        """What holds now, and is the same whoever is asked."""
        self._requests = Tally(
            "starloom_requests", "Requests by how they ended", ["model", "tenant", "outcome"]
        )
        self._ttft = Spread("starloom_ttft_seconds", "Time to first token", "model", _SECONDS)
        self._total = Spread("starloom_request_seconds", "Time of a request", "model", _SECONDS)
        self._tpot = Spread(
            "starloom_tpot_seconds", "Time per output token", "model", _TPOT_SECONDS
        )
        self._prompt = Tally("starloom_prompt_tokens", "Tokens of prompts", ["model"])
        self._cached = Tally(
            "starloom_cached_tokens", "Tokens of prompts whose KV was reused", ["model"]
        )
        self._pool = Tally(
            "starloom_pool_tokens", "The part of these that came out of the pool", ["model"]
        )
        self._generated = Tally("starloom_generated_tokens", "Tokens of answers", ["model"])
        self._verdicts = Tally("starloom_guard_verdicts", "What the guard did", ["where", "action"])
        for family in (
            *(self._requests, self._ttft, self._total, self._tpot),
            *(self._prompt, self._cached, self._pool, self._generated, self._verdicts),
        ):
            self.registry.register(family)

    def seen(self, record: Record) -> None:
        """A request is over. `record.model` is a model of the site, or empty."""
        name = record.model
        self._requests.add((name, record.tenant, record.outcome))
        if not name:
            return
        self._total.observe(name, record.total_ms / 1e3)
        if record.ttft_ms is not None:
            self._ttft.observe(name, record.ttft_ms / 1e3)
        if record.tpot_ms is not None:
            self._tpot.observe(name, record.tpot_ms / 1e3)
        key = (name,)
        self._prompt.add(key, record.prompt_tokens)
        self._generated.add(key, record.completion_tokens)
        self._cached.add(key, record.cached_tokens)
        self._pool.add(key, record.pool_tokens)

    def guarded(self, where: str, action: str) -> None:
        """The guard blocked or masked something."""
        self._verdicts.add((where, action))

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

    def __init__(self, failed_keys: Callable[[], int], whose: str = "") -> None:
        self._failed_keys = failed_keys
        self._name = f"starloom_failed_{whose}keys"

    def collect(self) -> Iterable[Metric]:
        failed = CounterMetricFamily(self._name, "Requests with a wrong key or none")
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
        yield _role(self._workers.table.roles())
        fetched = {name: report.fetched_total for name, report in reports.items()}
        failed = {name: report.fetch_failures_total for name, report in reports.items()}
        yield _counter("prompts_fetched", "Prompts whose KV came from another worker", fetched)
        yield _counter("prompts_not_fetched", "Prompts computed since no KV came", failed)


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


def _role(roles: Mapping[str, Role]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        "starloom_worker_role", "What it computes", labels=["worker", "role"]
    )
    for worker, role in roles.items():
        family.add_metric([worker, role], 1.0)
    return family


def _counter(name: str, what: str, values: Mapping[str, float]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"starloom_{name}", what, labels=["worker"])
    for worker, value in values.items():
        family.add_metric([worker], value)
    return family


def _gauge(name: str, what: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"starloom_{name}", what, labels=["worker"])
    for worker, value in values.items():
        family.add_metric([worker], value)
    return family
