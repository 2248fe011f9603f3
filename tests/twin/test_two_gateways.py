"""Several gateways that tell each other: as if they were one."""

import math
from dataclasses import replace

import pytest

from starloom.serve.schedule import POLICIES
from starloom.twin import MockerTimer, Workers, chats, replay, spread

TRACE = chats(3, 600, per_s=12.0)


def hits(policy, **more):
    return replay(TRACE, Workers(8, MockerTimer()), POLICIES[policy], exact=False, **more).summary()


@pytest.mark.parametrize("policy", ["prefix_load", "starloom"])
def test_two_gateways_reuse_as_much_as_one(policy):
    """Their hit rate is within a point of one's; two that tell nothing reuse much less."""
    one, two = hits(policy), hits(policy, gateways=2)
    apart = hits(policy, gateways=2, told_every_s=math.inf)
    assert abs(two.hit_pct - one.hit_pct) < 1.0
    assert two.ttft_mean_ms < 1.1 * one.ttft_mean_ms
    assert apart.hit_pct < one.hit_pct - 2.0


def test_requests_of_one_tick_are_spread_over_it():
    """In order, none before its tick or after the next, and nothing else changed."""
    ticks = [replace(it, at_s=3.0 * (at // 5)) for at, it in enumerate(TRACE[:50])]
    spread_out = spread(ticks, 1)
    assert len({it.at_s for it in spread_out[:-5]}) == 45
    assert [it.at_s for it in spread_out] == sorted(it.at_s for it in spread_out)
    assert {it.at_s // 3.0 for it in spread_out} == {it.at_s // 3.0 for it in ticks}
    same = sorted((it.prompt_tokens, it.answer_tokens, tuple(it.keys)) for it in spread_out)
    assert same == sorted((it.prompt_tokens, it.answer_tokens, tuple(it.keys)) for it in ticks)


def test_what_is_told_late_still_adds_up():
    """Half a second late: every request ends, and reuse stays near."""
    late = hits("prefix_load", gateways=3, told_every_s=0.5)
    assert late.success_pct == 100.0
    assert abs(late.hit_pct - hits("prefix_load").hit_pct) < 5.0
