"""`bench schedule` in small: rows for every system, and errors that name the data."""

import pytest

from starloom.bench import BenchError, Options
from starloom.bench import schedule as bench
from starloom.bench.base import Results
from starloom.bench.schedule_index import Case
from starloom.serve.schedule import POLICIES
from starloom.twin import chats


def test_replay_rows_are_there_for_every_policy():
    """Each policy and case has all figures; the overload has goodput besides."""
    results = Results()
    trace = chats(0, 30, per_s=5.0)
    bench._replays(Options(quick=True), lambda _: None, results, "", trace, None)
    rows = {(row["system"], row["case"], row["metric"]) for row in results.rows}
    for policy in POLICIES:
        for case in ("8w_1x", "8w_4x"):
            for metric in ("ttft_mean_ms", "ttft_p99_ms", "itl_mean_ms", "hit_pct", "success_pct"):
                assert (policy, case, metric) in rows
    assert ("sla", "8w_16x", "goodput_rps") in rows
    assert any("dynamo.replay was not run" in note for note in results.notes)


@pytest.mark.parametrize("exact", [False, True])
def test_an_index_case_measures(exact):
    """All figures are positive, and the pairs are those asked for."""
    case = Case(4, 20_000, 0, "starloom", exact=exact)
    figures = case.fill() | case.decisions(rounds=5)
    if exact:
        figures |= case.events()
    assert figures["pairs"] == 20_000
    assert all(value >= 0 for value in figures.values())
    assert figures["decision_us_p50"] > 0


def test_data_that_is_not_there_is_told(tmp_path):
    """An empty folder, and a file that is no trace."""
    with pytest.raises(BenchError, match="jsonl"):
        list(bench._traces(Options(data=tmp_path), Results()))
    (tmp_path / "x.jsonl").write_text("no\n")
    with pytest.raises(BenchError, match=r"x\.jsonl:1"):
        list(bench._traces(Options(data=tmp_path), Results()))
