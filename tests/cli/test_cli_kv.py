"""`starloom kv` from outside, and the nodes of a site file."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from starloom.cli.main import app
from starloom.kv import KvError, block_keys, root_key
from starloom.kv.remote import NodeAddress, RemotePool, Secret
from starloom.serve.rundir import RunDir
from starloom.serve.stack.children import children
from starloom.site import Site, SiteError

KEYS = block_keys(root_key(fingerprint="w", block_tokens=1, salt="t"), list(range(4)), 1)
SITE = """\
name: t
gateway: {port: 0}
nodes: [{name: n}]
models: [{name: loom-s, path: "package:loom-s"}]
workers: [{name: a, node: n, model: loom-s, engine: embedded}]
pool:
  node: n
  dram_gib: 0.05
  tenant: team-a
  key_file: team-a.key
  tenants_file: tenants
  nodes:
    - {name: kv-a, address: "unix://%s/a.sock", dram_gib: 0.01, metrics_port: 0}
"""


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(words))
    if isinstance(result.exception, KvError):
        return 2, str(result.exception)
    return result.exit_code, result.output


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site file, the tenant's key and the tenants file, made as the docs say."""
    file = tmp_path / "site.yaml"
    file.write_text(SITE % tmp_path)
    code, line = run("kv", "key", "team-a", "--out", str(tmp_path / "team-a.key"))
    assert code == 0
    tenants = tmp_path / "tenants"
    tenants.touch(0o600)
    tenants.write_text(line)
    return file


@pytest.fixture
def node(site):
    """`starloom kv serve` of that site, and what it printed when it was ready."""
    command = [sys.executable, "-m", "starloom.cli.main", "kv", "serve", str(site)]
    with subprocess.Popen(
        [*command, "--name", "kv-a", "--json"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        yield process, json.loads(process.stdout.readline())
        process.kill()


def test_a_node_serves_shows_and_ends(site, node, tmp_path):
    """serve, stat and inspect, each with --json; SIGTERM ends it and takes its socket away."""
    process, said = node
    assert said["endpoints"] == [f"unix://{tmp_path}/a.sock"]
    pool = RemotePool(
        [NodeAddress("kv-a", said["endpoints"][0])],
        secret=Secret.read("team-a", tmp_path / "team-a.key"),
    )
    assert pool.put([(key, key) for key in KEYS]) == 4
    code, text = run("kv", "stat", str(site), "--json")
    assert code == 0
    assert json.loads(text)["kv-a"]["tenant"]["put_blocks"] == 4
    _, text = run("kv", "stat", "--metrics-port", str(said["metrics_port"]), "--json")
    assert json.loads(text)["kv-a"]["tenants"]["team-a"]["put_blocks"] == 4
    _, text = run("kv", "inspect", str(site), "--json", "--key", KEYS[0].hex())
    shown = json.loads(text)
    assert shown["nodes"][0]["up"]
    assert shown["blocks"] == [{"key": KEYS[0].hex(), "ranking": ["kv-a"], "bytes": 32}]
    code, text = run("kv", "stat", str(site))
    assert (code, "kv-a" in text, "well" in text) == (0, True, True)
    code, text = run("kv", "inspect", str(site))
    assert (code, "kv-a" in text) == (0, True)
    with urllib.request.urlopen(f"http://127.0.0.1:{said['metrics_port']}/health") as answer:
        assert json.loads(answer.read())["state"] == "well"
    pool.close()
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(15) == 0
    assert not (tmp_path / "a.sock").exists()
    code, text = run("kv", "stat", str(site), "--json")
    assert "No such file" in json.loads(text)["kv-a"]
    code, text = run("kv", "inspect", str(site), "--json")
    assert not json.loads(text)["nodes"][0]["up"]


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["serve", "--listen", "tcp://0.0.0.0:0", "--slots", "10x10"], "name a tenants file"),
        (["serve", "--listen", "tcp://127.0.0.1:0"], "--slots BYTESxCOUNT"),
        (["serve", "--slots", "10x10"], "needs an address to listen on"),
        (["serve", "--listen", "nowhere", "--slots", "10x10"], "tcp://HOST:PORT"),
        (["serve", "--listen", "tls://127.0.0.1:0", "--slots", "1x1"], "name a certificate"),
        (["serve", "--listen", "tcp://127.0.0.1:0", "--slots", "ten"], "BYTESxCOUNT"),
        (["stat"], "no nodes: give a site file"),
        (["stat", "--node", "x"], "NAME=ADDRESS"),
        (["stat", "--node", "a=tcp://127.0.0.1:1", "--key-file", "/nonexistent"], "cannot be read"),
        (["inspect", "--node", "a=tcp://127.0.0.1:1", "--key", "zz"], "64 hex digits"),
        (["stat", "--metrics-port", "1"], "refused"),
        (["key", "No!", "--out", "/nonexistent/key"], "no tenant's name"),
    ],
)
def test_what_does_not_go_together_is_told(words, what):
    """By name and with what to do, before memory is taken."""
    code, text = run("kv", *words)
    assert code == 2
    assert what in text


def test_the_sites_pool_is_told_of_the_nodes(site, tmp_path):
    """Names, weights, who it is, and how long to wait; files are relative to the site file."""
    command = children(Site.load(site), RunDir(tmp_path / "run"))[0].command
    text = " ".join(command)
    assert f"--node kv-a=unix://{tmp_path}/a.sock*1" in text
    assert f"--tenant team-a --key-file {tmp_path}/team-a.key" in text
    assert "--node-timeout-s 1.0" in text
    assert "--ssd-wait-s 0.15" in text


@pytest.mark.parametrize(
    ("old", "new", "what", "fix", "line"),
    [
        ("unix://%s/a.sock", "http://h:1", "is no address of a node", "", 13),
        ("unix://%s/a.sock", "tcp://h:70000", "is no address of a node", "", 13),
        ("unix://%s/a.sock", "tls://h:1", "no certificate says whom to trust", "pool.tls.ca", 13),
        ("  tenant: team-a\n", "", "`key_file` is set and `tenant` is not", "add `tenant`", 9),
        ("metrics_port: 0}", "metrics_port: 0, wieght: 2}", "unknown field", "`weight`", 13),
        (
            "metrics_port: 0}",
            'metrics_port: 0}\n    - {name: kv-a, address: "tcp://h:1"}',
            "'kv-a' is taken by pool.nodes[0]",
            "a name of its own",
            14,
        ),
        (
            "  nodes:",
            "  tls: {cert: c.pem}\n  nodes:",
            "with its private key",
            "both `cert` and",
            12,
        ),
    ],
)
def test_faults_of_a_site_file_are_named_with_line_and_fix(tmp_path, old, new, what, fix, line):
    """All of them before anything starts."""
    file = tmp_path / "site.yaml"
    assert old in SITE
    text = SITE.replace(old, new)
    file.write_text(text % tmp_path if "%s" in text else text)
    with pytest.raises(SiteError) as refused:
        Site.load(file)
    [problem] = refused.value.problems
    assert what in problem.what
    assert fix in problem.fix
    assert problem.line == line


def test_the_example_holds():
    """`examples/kv-nodes.yaml` is a site."""
    site = Site.load(Path(__file__).parents[2] / "examples" / "kv-nodes.yaml")
    assert [node.name for node in site.pool.nodes] == ["kv-a", "kv-b"]
