"""The commands that need no running site."""

import hashlib
import json
import sys

import pytest

from starloom import __version__
from starloom.cli.main import main
from starloom.cli.status import with_states
from starloom.serve.gateway.membership import WorkerState

SITE = """\
name: lab
nodes:
  - {name: n0, chip: h100-sxm}
models:
  - {name: m, tokenizer: "package:loom-s", shape: llama-3-8b}
workers:
  - {name: w0, node: n0, model: m, engine: emulated, kv_cache_gib: 1}
  - {name: w1, node: n0, model: m, engine: openai, url: "http://127.0.0.1:9/v1"}
pool: {node: n0, dram_gib: 1}
"""


@pytest.fixture
def run(monkeypatch, capsys):
    """Call `starloom` with these words; returns exit code, stdout and stderr."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["starloom", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def site(tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text(SITE)
    return path


def test_version(run):
    assert run("--version") == (0, f"starloom {__version__}\n", "")


def test_site_check_reads_the_workers_file_too(run, site):
    """What is wrong there has its own file and line."""
    site.write_text(SITE + "workers_file: more.yaml\n")
    more = site.with_name("more.yaml")
    row = '{name: w%d, node: n0, model: m, engine: openai, url: "http://127.0.0.1:9/v1"}'
    more.write_text(f"- {row % 2}\n")
    code, out, _ = run("site", "check", site, "--json")
    assert (code, [one["worker"] for one in json.loads(out)["workers"]]) == (0, ["w0", "w1", "w2"])
    more.write_text(f"- {row % 2}\n- {row % 1}\n")
    code, out, _ = run("site", "check", site)
    assert code == 1
    assert "more.yaml:2: workers[1].name: the name 'w1' is taken" in out


def test_status_adds_what_gateways_know():
    """The worst breaker is shown; who joined at run time has a row, though no engine of ours."""
    known = {"model": "m", "engine": "openai", "url": "http://h", "up": True, "leaving": False}

    def state(name, breaker, *, draining=False, source="site"):
        return WorkerState(
            name=name, breaker=breaker, draining=draining, source=source, outstanding=3, **known
        )

    rows = with_states(
        [{"worker": "w0", "model": "m", "up": True, "running": 1}, {"worker": "w1", "model": "m"}],
        [
            state("w0", "closed"),
            state("new", "closed", source="admin"),
            state("w0", "half_open", draining=True),
        ],
    )
    assert [(row["worker"], row["source"], row["breaker"]) for row in rows] == [
        ("w0", "site", "half_open"),
        ("w1", "site", "closed"),
        ("new", "admin", "closed"),
    ]
    assert (rows[0]["breakers"], rows[0]["draining"]) == (["closed", "half_open"], True)
    assert (rows[2]["up"], rows[2]["running"]) == (True, 3)


def test_site_check_shows_what_the_site_would_run(run, site):
    """A Llama-3-8B block of 64 tokens has 8 MiB, so that 1 GiB holds 128 of them."""
    code, out, _ = run("site", "check", site)
    assert code == 0
    assert "128 blocks of 8,388,608 bytes" in out
    code, out, _ = run("site", "check", site, "--json")
    assert code == 0
    workers = json.loads(out)["workers"]
    assert [worker["kv_blocks"] for worker in workers] == [128, "-"]


def test_site_check_fails_with_every_problem(run, site):
    """Exit code 1, and each problem with its line, in both forms."""
    site.write_text(SITE.replace("node: n0, model: m, engine: emulated", "node: n1, model: m"))
    code, out, _ = run("site", "check", site)
    assert code == 1
    assert f"{site}:7: workers[0]" in out
    code, out, _ = run("site", "check", site, "--json")
    assert code == 1
    assert json.loads(out)["problems"][0]["line"] == 7


def test_up_with_a_bad_file_prints_no_trace(run, site):
    """The message is the same as that of `site check`, on stderr."""
    site.write_text("name: [")
    code, out, err = run("up", site)
    assert (code, out) == (2, "")
    assert err.startswith("starloom: ")
    assert "Traceback" not in err


def test_a_key_and_its_hash(run):
    """The printed hash is that of the printed key, and no two keys are alike."""
    _, out, _ = run("key", "--json")
    made = json.loads(out)
    assert hashlib.sha256(made["key"].encode()).hexdigest() == made["key_sha256"]
    assert json.loads(run("key", "--json")[1])["key"] != made["key"]


def test_doctor_names_what_is_there(run, site):
    """Each check says what it found; a site of a tiny need is content with this machine."""
    code, out, _ = run("doctor", site, "--json")
    findings = {finding["thing"]: finding for finding in json.loads(out)}
    assert findings["Python"]["ok"] is True
    assert findings["memory"]["ok"] is True
    assert code == (1 if any(f["ok"] is False for f in findings.values()) else 0)


def test_doctor_fails_on_what_cannot_be(run, site):
    """A site that needs more memory than any machine has is told so, with a fix."""
    site.write_text(SITE.replace("kv_cache_gib: 1", "kv_cache_gib: 1000000"))
    code, out, _ = run("doctor", site, "--json")
    memory = next(finding for finding in json.loads(out) if finding["thing"] == "memory")
    assert code == 1
    assert memory["ok"] is False
    assert "kv_cache_gib" in memory["fix"]


def test_an_unknown_bench_is_told_the_known_ones(run):
    code, _, err = run("bench", "nothing")
    assert code == 2
    assert "serve" in err
