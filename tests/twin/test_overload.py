"""Admission by target, on modelled time: what is kept when far too much is asked."""

import numpy as np
import pytest

from starloom.serve.schedule import POLICIES
from starloom.serve.schedule.sla import Sla
from starloom.site import Site
from starloom.twin.replay import Workers, replay
from starloom.twin.timing import RooflineTimer
from starloom.twin.trace import Request

TTFT_TARGET_S, TPOT_TARGET_S = 0.6, 0.06
PEAK = 115
"""Requests a second of 600 tokens that two such workers just answer in target."""
SITE = Site.model_validate(
    {
        "name": "overload",
        "nodes": [{"name": "n", "chip": "h100-sxm"}],
        "models": [{"name": "m", "tokenizer": "package:loom-s", "shape": "llama-3-8b"}],
        "workers": [{"name": "w", "node": "n", "model": "m", "engine": "emulated"}],
    }
)


def arrivals(rate, seconds, seed):
    """Poisson; no two prompts share a block."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.exponential(1 / rate, size=int(2 * rate * seconds)))
    return [
        Request(
            at_s=float(at_s),
            prompt_tokens=600,
            answer_tokens=24,
            keys=[(number * 16 + block).to_bytes(8) for block in range(9)],
        )
        for number, at_s in enumerate(times[times < seconds])
    ]


def outcome(policy, rate, seconds=12.0, warm_s=4.0):
    """Requests a second in target, and the share of those admitted that kept to it."""
    shape = SITE.shape("m")
    assert shape is not None
    timer = RooflineTimer(SITE.chip("n"), shape)
    workers = Workers(2, timer, num_blocks=2048, max_batch=32, max_batch_tokens=2048)
    records = replay(arrivals(rate, seconds, seed=1), workers, policy).records
    admitted = [it for it in records if it.at_s >= warm_s and it.worker is not None]
    kept = sum(
        it.first_s - it.at_s <= TTFT_TARGET_S
        and it.end_s - it.first_s <= TPOT_TARGET_S * (it.answer_tokens - 1)
        for it in admitted
    )
    return kept / (seconds - warm_s), kept / len(admitted)


@pytest.mark.parametrize("times", [3, 6])
def test_overload_costs_little_of_the_peak(times):
    """At 3 and 6 times the peak 90 % of it is kept, and 95 % of those admitted are in target."""
    peak, _ = outcome(lambda: Sla(TTFT_TARGET_S, TPOT_TARGET_S), PEAK)
    assert peak > 0.9 * PEAK
    kept, share = outcome(lambda: Sla(TTFT_TARGET_S, TPOT_TARGET_S), times * PEAK)
    assert kept >= 0.9 * peak
    assert share >= 0.95


def test_without_admission_overload_costs_all():
    """What the policy is for: a queue in front of everybody breaks every target."""
    kept, share = outcome(POLICIES["starloom"], 3 * PEAK)
    assert kept < 0.2 * PEAK
    assert share < 0.2
