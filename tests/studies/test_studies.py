"""Studies: claims computed again, what they print, and what they draw."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from starloom.cli.main import app
from starloom.studies import STUDIES, Findings, Options, StudyError, run, write_svg


def test_every_study_names_its_source_and_claim():
    """Whoever reads a figure can look up where it comes from."""
    for study in STUDIES.values():
        assert study.TITLE
        assert study.CLAIM
        assert study.SOURCE


def test_a_miss_is_a_finding():
    """A figure on the wrong side of the source's does not hold, and says by how much."""
    found = Findings()
    found.at_least("hits", "%", 70.0, 36.5)
    found.at_most("latency", "us", 10.0, 9.0)
    found.about("saving", "%", 40.0, 33.3, within=1.0)
    assert [one.holds for one in found.figures] == [False, True, False]
    assert found.figures[0].difference == -33.5


def test_an_unknown_study_is_named_with_those_there_are():
    """The error lists what can be run."""
    with pytest.raises(StudyError, match="kv-hits"):
        run("kv-hit", Options())


@pytest.fixture(scope="module")
def quick_hits():
    return run("kv-hits", Options(quick=True))


def test_kv_hits_keep_their_order(quick_hits):
    """No pool finds more than one without end; agents with many turns reach what is stated."""
    endless, *shares, agents = quick_hits.figures
    assert all(0 < one.ours <= 100 for one in [endless, *shares])
    assert agents.holds is True


@pytest.mark.data
def test_chats_of_a_real_trace_do_not_reach_what_is_stated(data_dir):
    """Mooncake's conversation trace: 36.6 % at the very most, so the claim cannot hold there."""
    found = run("kv-hits", Options(data=data_dir / "mooncake", quick=True))
    assert found.figures[0].holds is False


def test_an_offloaded_path_saves_what_it_leaves_out():
    """Three replicas are saved on writes alone, and half the time against a gateway alone."""
    by_name = {one.what: one for one in run("dpu-path", Options()).figures}
    held = {what: one.holds for what, one in by_name.items() if one.holds is not None}
    assert held == {
        "bytes over the network for a written byte, a replicated store by ours": True,
        "the same for a read byte": False,
        "read of 64 KiB, saved against the kernel's path": False,
        "read of 64 KiB, saved against a replicated store": True,
        "read of 32 MiB, saved against the kernel's path": False,
        "read of 32 MiB, saved against a replicated store": False,
    }


def test_pictures_are_the_same_bytes(quick_hits, tmp_path):
    """The picture of a seeded study is reproducible."""
    for name in ("a.svg", "b.svg"):
        write_svg(tmp_path / name, "Hits", quick_hits)
    first, second = ((tmp_path / name).read_bytes() for name in ("a.svg", "b.svg"))
    assert first == second
    assert b"belady" in first


def test_the_command_prints_both_sides(tmp_path: Path):
    """`starloom study kv-hits --json` has the source's figure and ours, and writes the picture."""
    svg = tmp_path / "hits.svg"
    told = CliRunner().invoke(app, ["study", "kv-hits", "--quick", "--json", "--svg", str(svg)])
    assert told.exit_code == 0, told.output
    figure = json.loads(told.stdout)["figures"][0]
    assert figure["stated"] == 70.0
    assert figure["difference"] == pytest.approx(figure["ours"] - 70.0)
    assert svg.read_bytes().startswith(b"<?xml")


def test_a_wrong_trace_is_refused(tmp_path: Path):
    """Data that are no trace are named with file and line."""
    path = tmp_path / "trace.jsonl"
    path.write_text('{"timestamp": 1}\n')
    with pytest.raises(StudyError, match=r"trace\.jsonl:1"):
        run("kv-hits", Options(data=path))
