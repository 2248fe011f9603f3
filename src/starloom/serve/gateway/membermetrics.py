"""What the metrics page says of workers that come and go, and of their circuit breakers."""

from collections import Counter
from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from starloom.serve.gateway.membership import Members
from starloom.serve.gateway.workers import Workers

_STATES = {"closed": 0.0, "half_open": 1.0, "open": 2.0}


class MemberMetrics(Collector):
    """Read when the page is asked for. Workers that left have no rows."""

    def __init__(self, workers: Workers, members: Members) -> None:
        self._workers = workers
        self._members = members

    def collect(self) -> Iterable[Metric]:
        workers, members = self._workers, self._members
        draining = GaugeMetricFamily(
            "starloom_worker_draining", "Whether it gets nothing new", labels=["worker"]
        )
        state = GaugeMetricFamily(
            "starloom_breaker_state",
            "Its circuit breaker: 0 closed, 1 half-open, 2 open",
            labels=["worker"],
        )
        opened = CounterMetricFamily(
            "starloom_breaker_opened", "How often it opened", labels=["worker"]
        )
        share = GaugeMetricFamily(
            "starloom_breaker_failure_share",
            "Failures among the verdicts of its window",
            labels=["worker"],
        )
        for name in workers.engines:
            breaker = workers.breakers.of(name)
            draining.add_metric([name], float(name in workers.draining))
            state.add_metric([name], _STATES[breaker.state])
            opened.add_metric([name], breaker.opened)
            share.add_metric([name], breaker.share)
        yield from (draining, state, opened, share)
        of_source = GaugeMetricFamily(
            "starloom_members", "Workers by where they are stated", labels=["source"]
        )
        problem = GaugeMetricFamily(
            "starloom_members_problem",
            "Whether a source is broken, so that what it gave last holds",
            labels=["source"],
        )
        counts = Counter({source.name: 0 for source in members.sources})
        counts.update(members.source(name) for name in workers.engines)
        for name, count in counts.items():
            of_source.add_metric([name], count)
        for source in members.sources:
            problem.add_metric([source.name], float(bool(source.problem)))
        yield from (of_source, problem)
