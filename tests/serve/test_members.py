"""Workers that come and go at run time: by a file, by DNS, by words between gateways."""

import asyncio
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.serve.gateway.changes import Changes
from starloom.serve.gateway.sources import DnsSource, FileSource, resolve
from starloom.serve.schedule import POLICIES, Ask, WorkerTable
from starloom.site import Discover, Site, SiteError, load_workers

WORKER = {"node": "n", "model": "m", "engine": "openai", "url": "http://h:1/v1"}


def site_of(**more):
    data = {
        "name": "t",
        "nodes": [{"name": "n"}],
        "models": [{"name": "m"}],
        "workers": [{"name": "w0", **WORKER}],
        **more,
    }
    return Site.model_validate(data)


def test_a_site_may_begin_without_workers_where_some_can_join():
    found = Discover(dns="x", worker={"name": "p", **WORKER, "url": "http://{address}/v1"})
    for more in (
        {"workers_file": "w.yaml"},
        {"discover": [found.model_dump(exclude_unset=True)]},
        {"gateway": {"admin": {"key_sha256": ["0" * 64]}}},
    ):
        assert not site_of(workers=[], **more).workers
    with pytest.raises(ValueError, match="nobody answers"):
        site_of(workers=[])


def test_what_is_discovered_is_checked_like_a_worker(tmp_path):
    """An unknown model has its line; a template must have a place for the address."""
    (tmp_path / "site.yaml").write_text(
        "name: t\nnodes: [{name: n}]\nmodels: [{name: m}]\ndiscover:\n"
        "  - dns: x\n    worker: {name: p, node: n, model: nn, engine: openai,\n"
        "             url: 'http://{address}/v1'}\n"
    )
    with pytest.raises(SiteError, match=r"discover\[0\].worker.model: there is no model 'nn'"):
        Site.load(tmp_path / "site.yaml")
    found = {"dns": "x", "worker": {"name": "p", **WORKER, "url": "http://{address}/v1"}}
    with pytest.raises(ValueError, match="name 'p' is taken by discover"):
        site_of(discover=[found, {**found, "dns": "y"}])
    with pytest.raises(ValueError, match="names no"):
        Discover(dns="x", worker={"name": "p", **WORKER})


def test_a_tenants_key_is_no_admin_key():
    tenants = [{"name": "a", "key_sha256": ["0" * 64]}]
    with pytest.raises(ValueError, match="a tenant has this key"):
        site_of(gateway={"admin": {"key_sha256": ["0" * 64]}}, tenants=tenants)


@pytest.mark.parametrize("named", [False, True])
def test_problems_of_a_workers_file_have_their_lines(tmp_path, named):
    """In a bare list as in a mapping; names of the site's own workers are taken."""
    path = tmp_path / "w.yaml"
    rows = f"- {json.dumps({'name': 'w0', **WORKER})}\n- {json.dumps({'name': 'w1', **WORKER})}\n"
    path.write_text(f"workers:\n{rows}" if named else rows)
    with pytest.raises(SiteError, match="taken by workers") as caught:
        load_workers(path, site_of())
    assert [problem.line for problem in caught.value.problems] == [1 + named]
    path.write_text(rows.replace('"w0"', '"w2"').replace('"model"', '"modle"', 1))
    with pytest.raises(SiteError, match="did you mean `model`") as caught:
        load_workers(path, site_of())
    path.write_text(rows.replace('"w0"', '"w2"'))
    assert [worker.name for worker in load_workers(path, site_of())] == ["w2", "w1"]


def test_a_file_is_read_when_it_changes_and_a_broken_one_changes_nothing(tmp_path):
    path = tmp_path / "w.json"
    wall = [1e9]
    source = FileSource(path, site_of(), lambda: wall[0])

    def look():
        return asyncio.run(source.look())

    def write(text, at_s):
        path.write_text(text)
        os.utime(path, (at_s, at_s))
        wall[0] = at_s

    assert look() is None
    assert "cannot be read" in source.problem
    write(json.dumps([{"name": "a", **WORKER}]), 1e9)
    assert [worker.name for worker in look()] == ["a"]
    assert source.problem == ""
    assert look() is None
    write(json.dumps([{"name": "b", **WORKER}]), 1e9)  # the same second, and the same size
    assert [worker.name for worker in look()] == ["b"]
    write("[{name: ", 1e9 + 9)
    assert look() is None
    assert "is not YAML" in source.problem
    write(json.dumps([{"name": "b", **WORKER}]), 1e9 + 20)
    assert [worker.name for worker in look()] == ["b"]
    assert source.problem == ""
    write("[]", 1e9 + 30)
    assert look() == []


def test_addresses_become_workers_and_a_failing_resolver_removes_them_late():
    """Empty and failed answers keep the last good one for `keep_s`; the next good one counts."""
    template = {
        "name": "pod",
        **WORKER,
        "url": "http://{address}:8000/v1",
        "metrics": "vllm",
        "kv_events": {"endpoint": "tcp://{address}:5557"},
    }
    answers, now = [], [0.0]

    async def resolve(name):
        assert name == "vllm.internal"
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    found = Discover(dns="vllm.internal", keep_s=10, worker=template)
    source = DnsSource(found, resolve, lambda: now[0])

    def look(answer, at_s):
        answers.append(answer)
        now[0] = at_s
        return asyncio.run(source.look())

    first, second = look(["10.0.0.2", "2001:db8::7"], 0)
    assert (first.name, first.url) == ("pod-10.0.0.2", "http://10.0.0.2:8000/v1")
    assert (second.name, second.url) == ("pod-2001-db8--7", "http://[2001:db8::7]:8000/v1")
    assert second.kv_events.endpoint == "tcp://[2001:db8::7]:5557"
    assert look(["2001:db8::7", "10.0.0.2"], 5) is None
    assert look([], 9) is None
    assert source.problem
    assert look(OSError("no server"), 15) is None
    assert look(TimeoutError(), 16) == []
    assert "TimeoutError" in source.problem
    assert look(TimeoutError(), 17) is None
    assert [worker.name for worker in look(["10.0.0.3"], 18)] == ["pod-10.0.0.3"]
    assert source.problem == ""


def test_the_systems_resolver_is_asked():
    """Names of this machine resolve to it; what is no name is an error that a source expects."""
    assert {"127.0.0.1", "::1"} & set(asyncio.run(resolve("localhost")))
    with pytest.raises(OSError, match=r"."):
        asyncio.run(resolve("no such name.invalid"))


STEPS = st.lists(
    st.tuples(
        st.sampled_from("123"),
        st.sampled_from(["add", "remove", "drain", "undrain", "tell", "lose", "restart"]),
        st.sampled_from("abc"),
    ),
    max_size=40,
)


@given(STEPS, st.lists(st.floats(-100, 100), min_size=3, max_size=3))
def test_gateways_agree_whatever_is_lost(steps, skew):
    """Clocks differ, frames are lost and doubled, one starts again from its file: words agree."""
    clock, kept = [1e9], {}

    def begin(name):
        off = skew[int(name) - 1]
        one = Changes(name, lambda: clock[0] + off, ["k"], lambda data: kept.update({name: data}))
        one.take(kept.get(name, b""))
        return one

    gateways = {name: begin(name) for name in "123"}
    last = {}
    for who, step, worker in steps:
        clock[0] += 1e-3
        one = gateways[who]
        if step == "restart":
            gateways[who] = begin(who)
        elif step == "tell":
            for other in gateways.values():
                other.take(one.tell())
                other.take(one.tell())
        elif step != "lose":
            noun = {"url": who} if step == "add" else None
            one.put(worker, noun, draining=step == "drain")
            last[worker] = one.words[worker]
    for one in gateways.values():
        for other in gateways.values():
            one.take(other.tell())
    words = [one.words for one in gateways.values()]
    assert words[0] == words[1] == words[2]
    assert set(words[0]) == set(last)
    if not any(skew):
        assert words[0] == last


def test_words_of_strangers_are_left_aside():
    ours, theirs = (Changes("x", lambda: 1e9, [key]) for key in ("k", "l"))
    theirs.put("a", {"url": "http://evil"}, draining=False)
    assert not ours.take(theirs.tell())
    assert not ours.take(b"nonsense")
    assert ours.words == {}


def test_a_word_that_a_worker_is_gone_is_forgotten_in_the_end():
    now = [1e9]
    changes = Changes("x", lambda: now[0], ["k"])
    changes.put("a", None, draining=False)
    changes.put("b", None, draining=True)
    now[0] += 3601
    changes.put("c", None, draining=False)
    assert set(changes.words) == {"b", "c"}
    late = Changes("y", lambda: 1e9, ["k"])
    late.put("a", None, draining=False)
    assert not changes.take(late.tell()), "one who has not forgotten it yet brings no news"


TABLE_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "up", "down", "drain", "undrain", "remove", "begin", "end"]),
        st.integers(0, 4),
    ),
    max_size=80,
)


@given(TABLE_STEPS, st.sampled_from(sorted(POLICIES)))
def test_counts_hold_whoever_comes_and_goes(steps, policy):
    """What is counted is what is under way; nothing new goes to who drains; numbers come back."""
    table, rows, tickets = WorkerTable(POLICIES[policy]), {}, []
    for at, (step, number) in enumerate(steps):
        name = f"w{number}"
        if step == "add" and name not in rows:
            table.add(name, "m", 64)
            rows[name] = {"up": False, "draining": False, "tickets": []}
        elif step == "begin":
            keys = [bytes([at, place]) * 16 for place in range(number)]
            ticket = table.begin("m", Ask(prompt_tokens=10, keys=keys, block_tokens=2))
            takers = [n for n, row in rows.items() if row["up"] and not row["draining"]]
            assert (ticket is None) == (not takers)
            if ticket is not None:
                assert ticket.worker in takers
                tickets.append(ticket)
                rows[ticket.worker]["tickets"].append(ticket)
        elif step == "end" and tickets:
            ticket = tickets.pop(number % len(tickets))
            ticket.end()
            row = rows.get(ticket.worker)
            if row is not None and ticket in row["tickets"]:
                row["tickets"].remove(ticket)
        elif name in rows:
            row = rows[name]
            if step == "up":
                table.up(name)
                row["up"] = True
            elif step == "down":
                table.down(name)
                row |= {"up": False, "tickets": []}
            elif step in ("drain", "undrain"):
                row["draining"] = step == "drain"
                table.drain(name, draining=row["draining"])
            elif step == "remove":
                table.remove(name)
                del rows[name]
        assert table.outstanding() == {n: len(row["tickets"]) for n, row in rows.items()}
        assert all(table.under_way(n) == len(row["tickets"]) for n, row in rows.items())
        assert set(table.changed()) <= set(rows)
    for ticket in tickets:
        ticket.end()
    assert not any(table.outstanding().values())
    for index in table._sent.values():
        index.check_integrity()
        assert len(index._lru) <= 5
    table.sent("nobody", [b"x" * 32])
    table.others("nobody", (1, 1, 1, 1))


def test_the_index_forgets_a_worker_that_leaves():
    """Its number goes to the next one, who holds nothing yet."""
    table = WorkerTable(POLICIES["prefix_load"])
    keys = [bytes([at]) * 32 for at in range(1, 20)]
    ask = Ask(prompt_tokens=20, keys=keys, block_tokens=1)
    for name in ("a", "b"):
        table.add(name, "m", 100)
        table.up(name)
    table.sent("a", keys)
    table.stored("b", None, keys)
    table.remove("a")
    table.remove("b")
    for name in ("c", "d"):
        table.add(name, "m", 100)
        table.up(name)
    assert [view.overlap_blocks for view in table.views(ask, "m")] == [0, 0]


@pytest.mark.parametrize("policy", ["starloom", "sla"])
def test_a_policy_keeps_nothing_of_who_left(policy):
    """Names of pods are never the same twice: what is kept of each must go with it."""
    table = WorkerTable(POLICIES[policy])
    for number in range(20):
        table.add(f"pod-{number}", "m", 100)
        table.up(f"pod-{number}")
        ticket = table.begin("m", Ask(prompt_tokens=10, now_s=1.0))
        ticket.first_token(1.5)
        ticket.end(2.0, 5)
        table.remove(f"pod-{number}")
    forecaster = table._policies["m", "whole"]._forecaster
    assert forecaster.prefill.samples == 20
    assert not forecaster._pace
    assert not forecaster._factor
