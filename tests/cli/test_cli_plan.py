"""`starloom plan` and its sub-commands."""

import json

import pytest
from typer.testing import CliRunner

from starloom.cli.plan import app
from starloom.plan import PlanError


def run(*arguments):
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


def test_a_supernode_is_planned_without_a_sub_command():
    done = run("dgx-h100", "--model", "llama-3-8b", "--gpus", "8", "--batch", "64", "--json")
    found = json.loads(done.stdout)
    assert found["chips"] == 8
    assert found["cuts"][0]["GiB"] < 80
    low, high = found["interval_s"]
    assert low < sum(found["parts_s"].values()) < high


def test_a_site_file_names_its_chips(tmp_path):
    """Two nodes of eight H100s: the supernode is found by the chip, the size by the nodes."""
    (tmp_path / "site.yaml").write_text(
        "name: two\n"
        "nodes: [{name: a, chip: h100-sxm, chips: 8}, {name: b, chip: h100-sxm, chips: 8}]\n"
        "models: [{name: m, shape: llama-3-8b, tokenizer: 'package:loom-s'}]\n"
        "workers: [{name: w, node: a, model: m, engine: emulated, kv_cache_gib: 1}]\n"
    )
    done = run(str(tmp_path / "site.yaml"), "--model", "m", "--batch", "64", "--json")
    found = json.loads(done.stdout)
    assert found["chips"] == 16
    assert found["supernode"] == "dgx-h100"


def test_explain_prints_a_tree_and_refuses_what_cannot_be():
    done = run("explain", "dgx-h100", "--model", "llama-3-8b", "--gpus", "8", "--tp", "8")
    assert "MLP up" in done.stdout
    with pytest.raises(PlanError, match="nearest legal: tp 8"):
        run("explain", "dgx-h100", "--gpus", "16", "--tp", "16")
    with pytest.raises(PlanError, match="does not divide 8 chips"):
        run("explain", "dgx-h100", "--gpus", "8", "--tp", "3")


def test_sweep_compare_and_serve():
    swept = run(
        "sweep", "dgx-h100", "--model", "llama-3-8b", "--gpus", "8,16", "--batch", "64", "--json"
    )
    assert [row["gpus"] for row in json.loads(swept.stdout)] == [8, 16]
    args = ("--model", "llama-3-8b", "--gpus", "8", "--batch", "64", "--json")
    compared = json.loads(run("compare", "dgx-h100", "dgx-b200", *args).stdout)
    assert compared[1]["tokens/s/chip"] > compared[0]["tokens/s/chip"]
    served = run("serve", "dgx-h100", "--model", "llama-3-8b", "--gpus", "8", "--json")
    assert json.loads(served.stdout)[0]["tokens/s/chip"] > 0
