"""Each policy by its formula, worked by hand; ours by what it is for."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.serve.errors import Throttled
from starloom.serve.schedule import (
    POLICIES,
    Ask,
    CacheAware,
    Decision,
    KvCost,
    Product,
    Shed,
    Sla,
    Starloom,
    Trip,
    Weighted,
    WorkerTable,
    WorkerView,
)
from starloom.serve.schedule.rates import Line, Mean

ASK = Ask(prompt_tokens=640, block_tokens=64)


def chosen(policy, *workers, ask=ASK):
    """The name that a policy decides on, of views a, b, c ... given as fields."""
    views = [WorkerView(name="abcdef"[at], **fields) for at, fields in enumerate(workers)]
    decision = policy.choose(ask, views)
    return decision.worker if isinstance(decision, Decision) else decision


def test_kv_cost_by_hand():
    """Dynamo's sum, in blocks.

    a: max(64/64 + 10 - 8, 0) + 20 + 10 = 33; b: 10 + 12 + 10 = 32; so b. With 3 blocks more of
    a's in DRAM, worth .75 each: 30.75, so a; on SSD, worth .25 each: 32.25, so b.
    """
    a = {"prefill_tokens": 64, "overlap_blocks": 8, "context_tokens": 20 * 64}
    b = {"context_tokens": 12 * 64}
    assert chosen(KvCost(), a, b) == "b"
    assert chosen(KvCost(), a | {"dram_blocks": 3}, b) == "a"
    assert chosen(KvCost(), a | {"ssd_blocks": 3}, b) == "b"


def test_product_by_hand():
    """a: (640 - 512) x (30 + 1) = 3,968; b: 640 x (5 + 1) = 3,840; so b; a with 29 blocks wins."""
    b = {"context_tokens": 5 * 64}
    assert chosen(Product(), {"overlap_blocks": 8, "context_tokens": 30 * 64}, b) == "b"
    assert chosen(Product(), {"overlap_blocks": 8, "context_tokens": 28 * 64}, b) == "a"


def test_weighted_by_hand():
    """a: 2 x 0 + 2 x (1 - .5) + 3 x .8 = 3.4; b: 2 x 1 + 2 x 1 + 0 = 4; a without queue: 5.4."""
    a = {"overlap_blocks": 8, "context_tokens": 3200, "kv_blocks": 100}
    b = {"kv_blocks": 100}
    assert chosen(Weighted(), a | {"prefills": 4}, b) == "b"
    assert chosen(Weighted(), a, b) == "a"


def test_cache_aware_by_hand():
    """SGLang's three cases.

    Above .3 matched the match wins, below it the shortest queue; 65 more than the other and half
    as much again is out of balance.
    """
    assert chosen(CacheAware(), {"overlap_blocks": 4, "outstanding": 60}, {}) == "a"
    assert chosen(CacheAware(), {"overlap_blocks": 3, "outstanding": 60}, {}) == "b"
    assert chosen(CacheAware(), {"overlap_blocks": 9, "outstanding": 65}, {}) == "b"
    far = {"overlap_blocks": 9, "outstanding": 190}
    assert chosen(CacheAware(), far, {"outstanding": 125}) == "b"
    assert chosen(CacheAware(), far, {"outstanding": 127}) == "a"


def test_starloom_weighs_a_held_prefix_against_the_queue():
    """Goes where 9 of 10 blocks are held, until the prefill that waits there takes longer."""
    held = {"overlap_blocks": 9, "outstanding": 1, "prefills": 1}
    assert chosen(Starloom(), held | {"prefill_tokens": 100}, {}) == "a"
    assert chosen(Starloom(), held | {"prefill_tokens": 5000}, {}) == "b"


def test_starloom_knows_how_long_the_queue_has_been_served():
    """A queue of about .14 s keeps it away from 90 of 100 blocks; .13 s later it does not."""
    busy = {"overlap_blocks": 90, "prefills": 1, "outstanding": 1, "prefill_tokens": 7000}
    early, late = (Ask(prompt_tokens=6400, now_s=now_s) for now_s in (0.0, 0.13))
    assert chosen(Starloom(), busy, {}, ask=early) == "b"
    assert chosen(Starloom(), busy, {}, ask=late) == "a"


def test_a_worker_that_hangs_does_not_look_idle():
    """A queue that is a minute overdue is expected to take a minute more."""
    hung = {"overlap_blocks": 9, "prefills": 1, "outstanding": 1, "prefill_tokens": 100}
    assert chosen(Starloom(), hung, {}, ask=Ask(prompt_tokens=640, now_s=60.0)) == "b"


def test_one_system_prompt_for_all_makes_no_hot_spot():
    """100 requests at once with one prefix that worker a holds: none gets over twice its share."""
    table = WorkerTable(Starloom)
    names = [f"w{at}" for at in range(8)]
    for name in names:
        table.add(name, "m", 10_000)
        table.up(name)
    system = [bytes([1, at]) for at in range(30)]
    table.sent("w0", system)
    for number in range(100):
        keys = [*system, bytes([2, number])]
        table.begin("m", Ask(prompt_tokens=31 * 64 + 10, keys=keys))
    counts = table.outstanding()
    assert sum(counts.values()) == 100
    assert max(counts.values()) <= 25
    assert min(counts.values()) >= 6


def trip(worker="a", *, tokens, seconds, gap_s=0.01, answer=11, outstanding=0):
    return Trip(
        worker=worker,
        begun_s=0,
        since_s=0,
        prefill_tokens=tokens,
        ahead_tokens=0,
        outstanding=outstanding,
        context_tokens=tokens,
        prompt_tokens=tokens,
        first_s=seconds,
        ended_s=None,
        answer_tokens=answer,
    )


def teach(policy, count=200, s_per_token=1e-4, slow=1.0):
    """Prefill of `s_per_token`, on worker b `slow` times that; 10 ms between tokens."""
    for at in range(count):
        worker, tokens = "ab"[at % 2], 500 + 97 * (at % 13)
        seconds = tokens * s_per_token * (slow if worker == "b" else 1.0)
        seen = trip(worker, tokens=tokens, seconds=seconds)
        policy.learn(seen)
        seen.ended_s = seconds + 0.1
        policy.learn(seen)


def test_starloom_learns_that_a_worker_is_slow():
    """Of two idle workers it takes the one that has been three times as fast."""
    policy = Starloom()
    teach(policy, slow=3.0)
    assert chosen(policy, {}, {}) == "a"
    policy = Starloom()
    teach(policy, slow=1 / 3)
    assert chosen(policy, {}, {}) == "b"


def test_sla_sheds_early_and_says_when_to_come_back():
    """Where the target cannot be kept now, it says so now.

    Prefill of 10,000 tokens/s is learned. With 3 s of it ahead everywhere and a target of 1 s
    the request is shed for about 2 s; with a target of 10 s it is not; urgent ones never are.
    """
    policy = Sla(ttft_target_s=1.0, tpot_target_s=1.0)
    teach(policy)
    busy = {"outstanding": 1, "prefills": 1, "prefill_tokens": 30_000}
    shed = chosen(policy, busy, busy)
    assert isinstance(shed, Shed)
    assert 1.5 < shed.retry_after_s < 3.5
    patient = Ask(prompt_tokens=640, ttft_target_s=10.0)
    assert chosen(policy, busy, busy, ask=patient) in "ab"
    assert chosen(policy, busy, busy, ask=Ask(prompt_tokens=640, priority=-1)) in "ab"


def test_sla_sheds_the_less_urgent_first():
    """With .85 of the target taken priority 0 fits, and priority 1 has to leave a fifth free."""
    policy = Sla(ttft_target_s=1.0, tpot_target_s=1.0)
    teach(policy)
    busy = {"outstanding": 1, "prefills": 1, "prefill_tokens": 7_900}
    assert chosen(policy, busy) == "a"
    assert isinstance(chosen(policy, busy, ask=Ask(prompt_tokens=640, priority=1)), Shed)


def test_sla_never_sheds_on_idle_workers():
    """A target that cannot be met at all is no reason to refuse: later would be no better."""
    policy = Sla(ttft_target_s=1e-6)
    assert chosen(policy, {}, {}) in "ab"


def test_sla_grows_careful_when_targets_are_missed():
    """After misses the same forecast is no longer good enough, and after hits it is again."""
    policy = Sla(ttft_target_s=0.5, tpot_target_s=1.0)
    teach(policy)
    busy = {"outstanding": 1, "prefills": 1, "prefill_tokens": 3_000}
    assert chosen(policy, busy) == "a"
    for _ in range(20):
        policy._ttft.learn(0.0, missed=True)
    assert isinstance(chosen(policy, busy), Shed)
    for _ in range(2000):
        policy._ttft.learn(0.0, missed=False)
    assert chosen(policy, busy) == "a"


def test_sla_doubts_its_margins_while_nothing_is_learned():
    """Refusals alone must not go on for ever, and a storm of them is no reason to let more in."""
    policy = Sla(ttft_target_s=0.5, tpot_target_s=1.0)
    teach(policy)
    for _ in range(20):
        policy._ttft.learn(0.0, missed=True)
    busy = WorkerView(name="a", outstanding=1, prefills=1, prefill_tokens=3_000)
    for _ in range(1000):
        assert isinstance(policy.choose(ASK, [busy]), Shed)  # all at the same instant
    later = msgspec.structs.replace(ASK, now_s=120.0)
    busy.prefill_since_s = 120.0
    assert isinstance(policy.choose(later, [busy]), Shed)
    assert isinstance(policy.choose(later, [busy]), Decision)


def test_the_table_answers_a_shed_request_with_429():
    """`begin` raises what the gateway turns into 429 with Retry-After, and counts nothing."""

    class Full:
        def choose(self, ask, workers):
            return Shed(1.5, "overloaded")

    table = WorkerTable(Full)
    table.add("a", "m", 8)
    table.up("a")
    with pytest.raises(Throttled) as error:
        table.begin("m", ASK)
    assert error.value.retry_after_s == 1.5
    assert error.value.status == 429
    assert table.outstanding() == {"a": 0}


def test_tickets_tell_learners_of_times():
    """Once at the first token and once at the end, with what the worker had to do before."""
    told = []

    class Learns:
        def choose(self, ask, workers):
            return Decision("a", "only")

        def learn(self, seen):
            told.append((seen.first_s, seen.ended_s, seen.ahead_tokens, seen.answer_tokens))

    table = WorkerTable(Learns)
    table.add("a", "m", 8)
    table.up("a")
    first = table.begin("m", Ask(prompt_tokens=100, now_s=1.0))
    second = table.begin("m", Ask(prompt_tokens=50, now_s=2.0))
    first.first_token(3.0)
    first.first_token(9.0)
    first.end(4.0, 7)
    second.end()
    assert told == [(3.0, None, 0, 0), (3.0, 4.0, 0, 7)]


def test_blocks_in_lower_tiers_follow_those_in_hbm():
    """HBM holds 2, DRAM 5 and SSD 6 leading blocks: 2 ready, 3 and 1 to fetch."""
    table = WorkerTable(KvCost, exact=True)
    table.add("a", "m", 800)
    table.up("a")
    keys = [bytes([at]) * 8 for at in range(10)]
    table.stored("a", None, keys[:2])
    table.stored("a", None, keys[:5], "dram")
    table.stored("a", None, keys[:6], "ssd")
    (view,) = table.views(Ask(prompt_tokens=640, keys=keys), "m")
    assert (view.overlap_blocks, view.dram_blocks, view.ssd_blocks) == (2, 3, 1)
    table.removed("a", [keys[1]])
    (view,) = table.views(Ask(prompt_tokens=640, keys=keys), "m")
    assert (view.overlap_blocks, view.dram_blocks, view.ssd_blocks) == (1, 4, 1)


def test_counts_of_other_gateways_are_seen_but_not_ours():
    """What others told of is in the view, replaced by what they tell next, and not passed on."""
    table = WorkerTable(POLICIES["least_outstanding"])
    table.add("a", "m", 8)
    table.up("a")
    table.others("a", (3, 300, 2, 900))
    table.others("a", (2, 100, 1, 500))
    table.others("nobody", (1, 1, 1, 1))
    ticket = table.begin("m", Ask(prompt_tokens=50))
    (view,) = table.views(Ask(prompt_tokens=1), "m")
    assert (view.outstanding, view.prefill_tokens, view.prefills) == (3, 150, 2)
    assert table.own() == {"a": (1, 50, 1, 50)}
    assert table.changed() == {"a": (1, 50, 1, 50)}
    assert table.changed() == {}
    ticket.end()
    assert table.own() == {"a": (0, 0, 0, 0)}


@given(st.floats(1e-5, 1e-3), st.floats(0, 0.1), st.integers(2_000, 50_000))
@settings(max_examples=20, deadline=None)
def test_a_line_finds_its_coefficients(slope, base, longest):
    """Samples without noise: what is forecast is what comes, and nothing is negative."""
    line = Line([0.01, 2e-5], [1.0, 10_000.0])
    for at in range(300):
        x = longest * (at % 17) / 17
        line.learn((1.0, x), base + slope * x)
    x = longest / 2
    assert line.predict((1.0, x)) == pytest.approx(base + slope * x, rel=0.05, abs=0.002)
    assert all(c >= 0 for c in line.coefficients)


def test_a_line_passes_over_what_is_no_sample():
    """Infinite, negative or missing times change nothing."""
    line = Line([0.01, 2e-5], [1.0, 10_000.0])
    for x, y in (((1.0, 5.0), float("nan")), ((1.0, float("inf")), 1.0), ((1.0, 5.0), -1.0)):
        line.learn(x, y)
    assert line.samples == 0
    assert line.coefficients == pytest.approx([0.01, 2e-5])


def test_a_mean_fades():
    """The newest values count for about 1/memory each."""
    mean = Mean(0.0, memory=10)
    for _ in range(200):
        mean.learn(1.0)
    assert mean.value == pytest.approx(1.0, abs=1e-6)
    mean.learn(2.0)
    assert mean.value == pytest.approx(1.1, abs=1e-6)
