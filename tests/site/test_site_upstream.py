"""What a site says of upstream servers: their signals, and which half of a request they compute."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from starloom.cli.main import app
from starloom.site import Site, SiteError

EXAMPLES = Path(__file__).parents[2] / "examples"

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
)
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


def test_a_model_is_served_apart_in_one_way(tmp_path):
    """Any two of its workers may be paired, so none may hand KV over otherwise or not at all."""
    head = SITE[: SITE.index("  - name: u")]
    worker = "  - {name: %s, node: n, model: m, engine: openai, url: http://h%s}\n"
    pair = "".join(
        worker % (name, f", role: {role}, disagg: vllm")
        for name, role in (("p", "prefill"), ("d", "decode"))
    )
    for odd in (worker % ("u", ""), "  - {name: u, node: n, model: m, engine: emulated}\n"):
        with pytest.raises(SiteError, match="hand KV over by `disagg: vllm`"):
            load(tmp_path, head + pair + odd)
    assert all(worker.salted for worker in load(tmp_path, head + pair).workers)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_example_is_a_site(path):
    """`starloom site check` finds nothing wrong in it."""
    done = CliRunner().invoke(app, ["site", "check", str(path)])
    assert (done.exit_code, ": ok" in done.output) == (0, True), done.output


def test_examples_are_there():
    """Those that the pages name."""
    assert {path.stem for path in EXAMPLES.glob("*.yaml")} >= {"laptop", "pd", "routed", "vllm"}
