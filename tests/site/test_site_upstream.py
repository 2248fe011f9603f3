"""What a site says of upstream servers: their signals, and which half of a request they compute."""

import pytest

from starloom.site import Site, SiteError

SITE = """\
name: lab
nodes: [{name: n}]
tenants: [{name: acme}]
models:
  - {name: m, tokenizer: "package:loom-s", block_tokens: 16}
workers:
  - name: u
    node: n
    model: m
    engine: openai
    url: http://host:8100/v1
"""
EVENTS = SITE + "    kv_events: {endpoint: 'tcp://host:5557'}\n"


def load(tmp_path, text):
    path = tmp_path / "site.yaml"
    path.write_text(text)
    return Site.load(path)


def test_signals_are_off_by_default(tmp_path):
    [worker] = load(tmp_path, SITE).workers
    assert (worker.kv_events, worker.metrics, worker.role) == (None, "none", "both")
    assert worker.metrics_address == "http://host:8100/metrics"


@pytest.mark.parametrize(
    ("text", "line", "field", "what"),
    [
        (EVENTS.replace("host:5557", "*:5557"), 12, "kv_events.endpoint", "name the host"),
        (EVENTS.replace("tcp:", "ipc:"), 12, "kv_events.endpoint", "does not do"),
        (EVENTS.replace(":5557'", ":65530', ranks: 8"), 12, "kv_events", "no port for rank 7"),
        (EVENTS.replace("5557'", "5557', tenant: x"), 12, "kv_events.tenant", "no tenant 'x'"),
        (EVENTS.replace('tokenizer: "package:loom-s", ', ""), 11, "kv_events", "no tokenizer"),
        (EVENTS.replace("endpoint", "endpoit"), 12, "kv_events.endpoint", "is missing"),
        (SITE + "    metrics_url: http://host:1/m\n", 7, "", "set `metrics`"),
        (SITE + "    metrics: prometheus\n", 12, "metrics", "does not do"),
        (SITE + "    role: prefill\n", 7, "", "needs `disagg"),
        (SITE + "    disagg: vllm\n", 7, "", "set `role`"),
        (SITE + "    role: decode\n    disagg: sglang\n", 12, "role", "`role: prefill`"),
    ],
)  # fmt: skip
def test_errors_name_the_place_and_the_fix(tmp_path, text, line, field, what):
    with pytest.raises(SiteError) as caught:
        load(tmp_path, text)
    problem = caught.value.problems[0]
    where = "workers[0]" + (f".{field}" if field else "")
    assert problem.field == where
    assert what in f"{problem.what} {problem.fix}"
    assert abs(problem.line - line) <= 1


def test_halves_that_match_are_taken(tmp_path):
    """Each half needs the other, of the same model and the same way to hand over."""
    half = (
        "  - {name: %s, role: %s, disagg: %s, node: n, model: m, engine: openai, url: http://h}\n"
    )
    head = SITE[: SITE.index("  - name: u")]
    both = head + half % ("p", "prefill", "vllm") + half % ("d", "decode", "vllm")
    assert [worker.role for worker in load(tmp_path, both).workers] == ["prefill", "decode"]
    with pytest.raises(SiteError, match="no worker of model 'm'"):
        load(tmp_path, both.replace("decode, disagg: vllm", "decode, disagg: sglang"))
