"""Disk below the pool: from the site file to the pool's command line and to what `status` shows."""

from pathlib import Path

import msgspec

from starloom.cli.status import pool_lines
from starloom.kv import PoolStat
from starloom.serve.models import ModelFiles
from starloom.serve.rundir import RunDir
from starloom.serve.stack.children import children, ssd_slots
from starloom.site import Site

SITE = """
name: t
gateway: {port: 0}
nodes: [{name: n}]
models: [{name: loom-s, path: "package:loom-s"}]
workers: [{name: a, node: n, model: loom-s, engine: embedded}]
pool: {node: n, dram_gib: 0.05, timeout_s: 0.5%s}
"""


def site(tmp_path: Path, ssd: str = "") -> Site:
    file = tmp_path / "site.yaml"
    file.write_text(SITE % ssd)
    return Site.load(file)


def test_a_site_with_disk_starts_its_pool_with_it(tmp_path):
    """The folder is relative to the site file; slots fill what is allowed and no more."""
    made = site(tmp_path, ", ssd: {path: kv, gib: 0.25, threads: 2}")
    command = children(made, RunDir(tmp_path / "run"))[0].command
    assert command[command.index("--ssd") + 1] == str(tmp_path / "kv")
    assert command[command.index("--ssd-threads") + 1] == "2"
    assert float(command[command.index("--ssd-wait-s") + 1]) == 0.3
    [(size, count)] = ssd_slots(made).items()
    assert size == ModelFiles(made, "loom-s").block_bytes
    assert 0.9 * 2**28 < count * (size + 4096) <= 2**28
    assert f"{size}x{count}" in command


def test_a_site_without_disk_has_none(tmp_path):
    """Nothing of it stands on the command line."""
    made = site(tmp_path)
    assert ssd_slots(made) == {}
    assert "--ssd" not in children(made, RunDir(tmp_path / "run"))[0].command


def test_status_shows_the_tiers_apart():
    """One line for memory; one for disk where there is one, or should be one."""
    names = [field.name for field in msgspec.structs.fields(PoolStat)]
    zero = {**dict.fromkeys(names, 0), "ssd_healthy": True, "remote_healthy": True}
    assert len(pool_lines(zero)) == 1
    assert "ssd" not in pool_lines(zero)[0]
    assert pool_lines({**zero, "ssd_slots": 1000})[1].startswith("pool, SSD: healthy, 1,000 ssd_sl")
    assert "NOT HEALTHY" in pool_lines({**zero, "ssd_healthy": False})[1]
    nodes = pool_lines({**zero, "nodes": 2, "nodes_up": 1, "remote_hit_blocks": 7})
    assert nodes[1].startswith("pool, nodes: healthy, 2 nodes, 1 nodes_up, 7 remote_hit")
    assert "NOT HEALTHY" in pool_lines({**zero, "nodes": 2, "remote_healthy": False})[1]
