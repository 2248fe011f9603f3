"""What the metrics page says of workers."""

from types import SimpleNamespace

from starloom.serve.base import LoadReport
from starloom.serve.gateway.metrics import WorkerMetrics
from starloom.serve.signals import Load


def test_what_a_server_says_of_itself_is_shown_while_it_is_fresh():
    """Its own queue and KV usage; of a worker that says nothing, the gateway's report."""
    engines = {name: SimpleNamespace(report=lambda: LoadReport(waiting=2)) for name in ("a", "b")}
    table = SimpleNamespace(outstanding=lambda: {"a": 1, "b": 0})
    workers = SimpleNamespace(engines=engines, table=table, is_up=lambda name: True)
    told = {"a": Load(running=3, waiting=7, kv_usage=0.5)}
    found = {
        family.name: {sample.labels.get("worker"): sample.value for sample in family.samples}
        for family in WorkerMetrics(workers, told.get).collect()
    }
    assert found["starloom_worker_waiting"] == {"a": 7.0, "b": 2.0}
    assert found["starloom_worker_kv_usage"] == {"a": 0.5}
