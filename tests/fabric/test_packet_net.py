"""`starloom net run`: every example runs, and the pictures are the same for the same run."""

import json

import pytest
from typer.testing import CliRunner

pytest.importorskip("numba")

from starloom.cli import net
from starloom.fabric import Scenario

pytestmark = pytest.mark.timeout(600)  # cold compilation, on a machine that others use too


def examples(repository):
    found = sorted((repository / "examples" / "net").glob("*.yaml"))
    assert len(found) >= 4
    return found


def test_every_example_is_a_scenario(repository):
    """Examples load and make flows."""
    for path in examples(repository):
        made = Scenario.load(path)
        assert len(made.flows(made.seeds[0])) == made.flow_count


def test_a_run_is_told_as_json(repository):
    """One object a seed, all flows ended, nothing lost under credits."""
    path = repository / "examples" / "net" / "incast.yaml"
    done = CliRunner().invoke(net.app, ["run", str(path), "--json"])
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)
    assert row["ended"] == row["flows"] == 32
    assert row["lost"] == 0


def test_a_run_draws_its_pictures(repository, tmp_path):
    """Topology, heat, completion times and queues, as SVG without dates."""
    pytest.importorskip("matplotlib")
    path = repository / "examples" / "net" / "incast.yaml"
    texts = []
    for name in ("a", "b"):
        folder = tmp_path / name
        done = CliRunner().invoke(net.app, ["run", str(path), "--pictures", str(folder)])
        assert done.exit_code == 0, done.output
        texts.append({file.name: file.read_text() for file in folder.iterdir()})
    assert {*texts[0]} == {"topology.svg", "heat.svg", "fct.svg", "queues.svg"}
    assert texts[0] == texts[1]


def test_flows_that_do_not_end_are_told(tmp_path):
    """Time up with work left is exit 1."""
    path = tmp_path / "short.yaml"
    path.write_text(
        "name: short\nfabric: {hosts: 4, hosts_per_leaf: 2, spines: 2}\nuntil_us: 5\n"
        "traffic: [{kind: permutation, bytes: 1000000}]\n"
    )
    done = CliRunner().invoke(net.app, ["run", str(path), "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)[0]["ended"] == 0
