"""Loading a prefix or computing it: what is learned, where to stop, when to give up."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.kv.worth import ComputeSpeed, LoadSpeed, Race, blocks_worth_loading

MIB = 1 << 20
seconds = st.floats(0, 10, allow_nan=False)


def test_compute_speed_is_learned_from_steps():
    """Steps that follow a + b n + c pairs are predicted to a percent after forty of them."""
    speed = ComputeSpeed(seconds_per_token=1.0)
    draw = random.Random(7)

    def truth(tokens, past):
        return 0.004 + 5e-5 * tokens + 2e-9 * (tokens * past + tokens * (tokens + 1) / 2)

    for _ in range(40):
        tokens, past = draw.randrange(64, 1024), draw.randrange(0, 30000)
        speed.observe(tokens, past, truth(tokens, past))
    for tokens, past in ((128, 0), (512, 8192), (1024, 30000)):
        assert speed.seconds(tokens, past) == pytest.approx(truth(tokens, past), rel=0.01)


def test_blocks_add_up_to_the_step_that_computes_them():
    """The blocks of a chunk cost together what the chunk costs, but for the fixed part."""
    speed = ComputeSpeed(1.0)
    for tokens, past in ((256, 0), (512, 512), (1024, 4096), (64, 9000)):
        speed.observe(tokens, past, 1e-4 * tokens + 1e-8 * (tokens * past + tokens**2 / 2))
    whole = speed.seconds(1024, 2048) - speed.seconds(0, 2048)
    assert speed.seconds_of_blocks(4, 256, 2048).sum() == pytest.approx(whole, rel=1e-6)


def test_a_cost_is_never_negative():
    """Noise of a slow first step does not make later tokens free, or worse."""
    speed = ComputeSpeed(1e-4)
    for tokens, took in ((1000, 0.05), (10, 0.5), (1000, 0.05), (10, 0.4)):
        speed.observe(tokens, 0, took)
    assert speed.seconds(5000, 0) >= speed.seconds(1, 0) >= 0


def test_load_speed_follows_a_disk_that_slows():
    """At a tenth of the rate, the estimate is there after some dozens of loads."""
    speed = LoadSpeed(1e9, 1e-4)
    for _ in range(100):
        speed.observe(32 * MIB, 1e-4 + 32 * MIB / 1e9)
    assert speed.bytes_per_s == pytest.approx(1e9, rel=0.01)
    for _ in range(60):
        speed.observe(32 * MIB, 1e-4 + 32 * MIB / 1e8)
    assert speed.bytes_per_s < 2e8


def test_what_is_queued_is_waited_for():
    """1 GB behind 1 GB at 1 GB/s, with a millisecond of latency: 2.001 s."""
    assert LoadSpeed(1e9, 1e-3).seconds(1e9, 1e9) == pytest.approx(2.001)


def test_stops_where_most_is_saved():
    """Loading costs 2 a block and 3 at first; computing gets dearer from block to block."""
    compute = [1, 2, 3, 4, 5]
    # saved: -1, -1, 0, 2, 5, less 3 at first: the whole prefix is worth it, four blocks are not
    assert blocks_worth_loading(compute, [2] * 5, 3) == 5
    assert blocks_worth_loading(compute[:4], [2] * 4, 3) == 0


def test_a_slow_tail_is_left_out():
    """Blocks in memory come at once, those on a slow disk not: the load ends between them."""
    assert blocks_worth_loading([1.0] * 6, [0.01] * 4 + [3.0] * 2, 0.0) == 4


@given(st.lists(st.tuples(seconds, seconds), max_size=40), seconds)
def test_no_other_stop_saves_more(blocks, first):
    """The stop is the best of all stops, the empty one included."""
    compute = np.array([each for each, _ in blocks])
    load = np.array([each for _, each in blocks])

    def total(stop):
        return load[:stop].sum() + compute[stop:].sum() + (first if stop else 0)

    best = min(total(stop) for stop in range(len(blocks) + 1))
    assert total(blocks_worth_loading(compute, load, first)) == pytest.approx(best)


def _served(compute_s, load_s, at_once):
    """When a prompt is ready: blocks come in rounds of `load_s` each, the rest is computed."""
    race = Race(np.full(64, compute_s), at_once, began_s=0.0, latency_s=0.0)
    now = 0.0
    for took in load_s:
        if now + took > race.give_up_s:
            now = race.give_up_s
            break
        now += took
        race.arrived(at_once, now)
    return now + race.compute_s[race.come :].sum()


def test_a_disk_that_stops_costs_a_round():
    """Nothing comes any more: computing begins after the time of one round, 1/8 of all here."""
    assert _served(0.01, [1e9], at_once=8) == pytest.approx(0.64 * 1.125)


def test_a_disk_that_slows_on_the_way_is_left():
    """Four quick rounds are kept; the slow rest is computed after one round's wait."""
    ready = _served(0.01, [0.01] * 4 + [5.0] * 4, at_once=8)
    assert ready == pytest.approx(0.04 + 0.32 / 4 + 0.32)


@given(
    st.lists(st.floats(1e-4, 2.0), min_size=8, max_size=8),
    st.floats(1e-4, 1e-1),
)
def test_a_load_never_takes_much_longer_than_computing(rounds, compute_s):
    """However the disk behaves, at most one round's share of computing is lost at each turn."""
    whole = 64 * compute_s
    assert _served(compute_s, rounds, at_once=8) <= whole * (1 + 1 / 8) + 1e-9
