"""A pool in simulated time: what counts as a hit, the published marks, and the drawn load."""

import statistics
from itertools import pairwise
from pathlib import Path

import pytest

from starloom.bench import eviction
from starloom.bench.base import Results
from starloom.kv.policies import Lru
from starloom.site.pool import KvPool
from starloom.twin import AgentLoad, Prompt, TraceError, agents, belady, prompts, replay_pool


def test_hits_are_the_longest_held_prefix():
    """Worked by hand, four blocks of room: 0 of 3, 2 of 4, 0 of 2, and then 2 of 4 are left."""
    trace = [
        Prompt(0.0, [1, 2, 3]),
        Prompt(1.0, [1, 2, 4, 5]),  # 3 goes: it was used longest ago
        Prompt(2.0, [8, 9]),  # 5 and 4 go, from the end
        Prompt(3.0, [1, 2, 4, 5]),  # 9 and 8 go
    ]
    run = replay_pool(trace, Lru(4), 4)
    assert (run.blocks, run.hits, run.late_blocks, run.late_hits) == (13, 4, 6, 2)
    assert run.refused == 0
    assert run.hit_pct == pytest.approx(100 * 4 / 13)
    # the bound does not take 8 and 9 up, and finds all four again
    bound = replay_pool(trace, belady(trace)(4), 4)
    assert (bound.hits, bound.refused) == (6, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "no request"), ("{}\n", ":1: "), ('{"timestamp": 1, "hash_ids": ["a"]}', ":1: ")],
)
def test_a_trace_that_cannot_be_read(tmp_path: Path, text: str, message: str):
    """The message names the file and the line."""
    path = tmp_path / "trace.jsonl"
    path.write_text(text)
    with pytest.raises(TraceError, match=rf"trace\.jsonl:? ?.*{message}"):
        prompts(path)
    with pytest.raises(TraceError, match="cannot be read"):
        prompts(tmp_path / "absent.jsonl")


@pytest.mark.data
@pytest.mark.parametrize(("capacity", "lru", "bound"), [(1000, 4.45, 19.07), (5000, 11.18, 34.12)])
def test_marks_of_mooncake(data_dir: Path, capacity: int, lru: float, bound: float):
    """The figures that were measured with another simulator, to two digits."""
    trace = prompts(data_dir / "mooncake" / "conversation_trace.jsonl")
    assert replay_pool(trace, Lru(capacity), capacity).hit_pct == pytest.approx(lru, abs=0.006)
    best = replay_pool(trace, belady(trace)(capacity), capacity)
    assert best.hit_pct == pytest.approx(bound, abs=0.006)


def test_agents_are_as_stated():
    """Turns, first pauses and shares come out as the load states them; a seed repeats itself."""
    load = AgentLoad()
    trace = agents(3, 6000, load)
    assert trace == agents(3, 6000, load)
    assert trace != agents(4, 6000, load)
    assert all(a.at_s <= b.at_s for a, b in pairwise(trace))
    last: dict[int, float] = {}
    pauses = []
    for prompt in trace:
        extended = next((block for block in reversed(prompt.blocks) if block in last), None)
        if extended is not None:
            pauses.append(prompt.at_s - last.pop(extended))
        last[prompt.blocks[-1]] = prompt.at_s
    assert statistics.mean([len(trace) / len(last)]) == pytest.approx(load.turns, rel=0.15)
    assert 4 < statistics.median(pauses) < 9  # four fifths about 4 s, the others about 60 s


def test_agents_keep_prefixes_apart():
    """A block has one block before it: chains are trees, as hashes of prefixes are."""
    parents: dict[int, int | None] = {}
    for prompt in agents(1, 1500):
        for block, before in zip(prompt.blocks, [None, *prompt.blocks], strict=False):
            assert parents.setdefault(block, before) == before


def test_the_bench_prints_all_policies():
    """Every policy of a site is a system, nobody passes the bound, ours stands among them."""
    results = Results()
    trace = agents(0, 150)
    eviction._trace(lambda _: None, results, "", trace, [60])
    hits = {row["system"]: row["value"] for row in results.rows if row["metric"] == "hit_pct"}
    stated = set(KvPool.model_json_schema()["properties"]["policy"]["enum"])
    assert stated < hits.keys()
    assert hits["belady"] == max(hits.values())
    share = [row for row in results.rows if row["metric"] == "share_of_bound_pct"]
    assert next(row["value"] for row in share if row["system"] == "belady") == 100.0
    assert all(row["value"] <= 100 for row in share)
