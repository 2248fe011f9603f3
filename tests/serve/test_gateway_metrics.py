"""What the metrics page says of workers and requests."""

import re
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from starloom.serve.base import LoadReport
from starloom.serve.gateway.metrics import WorkerMetrics
from starloom.serve.gateway.tallies import Spread, Tally
from starloom.serve.signals import Load


def test_what_a_server_says_of_itself_is_shown_while_it_is_fresh():
    """Its own queue and KV usage; of a worker that says nothing, the gateway's report."""
    engines = {name: SimpleNamespace(report=lambda: LoadReport(waiting=2)) for name in ("a", "b")}
    table = SimpleNamespace(
        outstanding=lambda: {"a": 1, "b": 0}, roles=lambda: {"a": "both", "b": "both"}
    )
    workers = SimpleNamespace(engines=engines, table=table, is_up=lambda name: True)
    told = {"a": Load(running=3, waiting=7, kv_usage=0.5)}
    found = {
        family.name: {sample.labels.get("worker"): sample.value for sample in family.samples}
        for family in WorkerMetrics(workers, told.get).collect()
    }
    assert found["starloom_worker_waiting"] == {"a": 7.0, "b": 2.0}
    assert found["starloom_worker_kv_usage"] == {"a": 0.5}


VALUES = st.lists(
    st.tuples(st.sampled_from("ab"), st.floats(0, 20) | st.sampled_from([0.5, 1.0, 2.5]))
)


@given(VALUES)
def test_tallies_write_the_page_that_the_client_library_writes(values):
    """Counters and histograms, whatever was observed: bounds belong to the bucket that they end."""
    bounds = (0.5, 1.0, 2.5)
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    tally, spread = Tally("n", "Counted", ["who"]), Spread("t", "Timed", "who", bounds)
    ours.register(tally)
    ours.register(spread)
    counter = Counter("n", "Counted", ["who"], registry=theirs)
    histogram = Histogram("t", "Timed", ["who"], registry=theirs, buckets=bounds)
    for who, value in values:
        tally.add((who,), value)
        spread.observe(who, value)
        counter.labels(who).inc(value)
        histogram.labels(who).observe(value)
    wanted = re.sub(r"(?m)^.*_created.*\n", "", generate_latest(theirs).decode())
    assert generate_latest(ours).decode() == wanted
