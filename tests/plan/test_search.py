"""Legal cuts, the exhaustive search, and errors that say what would be legal."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.plan import BadPlan, Cuts, DoesNotFit, IllegalCut, Job, Limits, plan
from starloom.plan.legal import check, divisors, legal, space
from starloom.plan.search import pareto
from starloom.site import catalogue

LLAMA = catalogue.shapes()["llama-3-8b"]
QWEN = catalogue.shapes()["qwen3-30b-a3b"]


@settings(deadline=None, max_examples=6)
@given(st.sampled_from([8, 16, 24]), st.sampled_from([LLAMA, QWEN]))
def test_every_cut_of_the_space_is_legal_and_uses_all_chips(chips, shape):
    limits = Limits(tp_most=8)
    cuts = space(shape, Job(4096), chips, 96, limits)
    assert legal(shape, Job(4096), cuts, limits).all()
    assert (cuts.world == chips).all()
    assert (cuts.microbatches == np.floor(cuts.microbatches)).all()
    rows = {tuple(row) for row in np.stack([getattr(cuts, f) for f in Cuts.__slots__]).T.tolist()}
    assert len(rows) == len(cuts)


def test_the_space_misses_no_legal_cut():
    """A brute-force product over small axes, filtered by the same constraints, is found whole."""
    limits = Limits(tp_most=4, pp_most=4, cp_most=2, vp_most=2, microbatches=(1, 2), zeros=(1,))
    job, chips = Job(4096), 8
    axes = [
        (t, p, v, c, m)
        for t in (1, 2, 4)
        for p in (1, 2, 4)
        for v in (1, 2)
        for c in (1, 2)
        for m in (1, 2)
        if chips % (t * p * c) == 0
    ]
    t, p, v, c, m = np.array(axes, dtype=float).T
    every = Cuts.of(tp=t, pp=p, vp=v, cp=c, dp=chips / (t * p * c), mbs=m, gbs=32)
    wanted = every.take(legal(LLAMA, job, every, limits))
    found = space(LLAMA, job, chips, 32, limits)
    found = found.take(found.recompute == 0)

    def key(cuts):
        return {tuple(row) for row in np.stack([cuts.tp, cuts.pp, cuts.vp, cuts.cp, cuts.mbs]).T}

    assert key(found) == key(wanted)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=50))
def test_the_front_is_what_none_before_beats(values):
    array = np.array(values)
    front = set(pareto(array).tolist())
    for at, value in enumerate(values):
        assert (at in front) == all(value < other for other in values[:at])


@given(st.integers(1, 5000))
def test_divisors(n):
    assert divisors(n) == [d for d in range(1, n + 1) if n % d == 0]


def test_a_plan_is_the_fastest_of_those_that_fit():
    made = plan("llama-3-8b", "dgx-h100", 8, 64, 8192)
    step, need = made.found.step_s, made.found.memory_bytes
    assert step[0] == step.min()
    assert (need <= 80 * 2**30).all()
    assert made.estimate.step_s[0] == pytest.approx(step[0])
    low, high = made.interval_s
    assert low < step[0] < high
    small = plan("llama-3-8b", "dgx-h100", 8, 64, 8192, objective="memory")
    assert small.found.memory_bytes[small.at] <= need[0]
    assert small.found.step_s[small.at] <= 1.05 * step[0]


@pytest.mark.parametrize(
    ("cut", "words"),
    [
        ({"tp": 3}, ("TP divides the heads", "32 heads over 3", "tp 2")),
        ({"tp": 16}, ("TP stays in the supernode", "8 over the 8", "tp 8")),
        ({"dp": 7}, ("the batch divides", "64 sequences over dp 7", "batch: 63")),
        ({"ep": 2}, ("EP needs experts", "set ep 1")),
        ({"pp": 2, "vp": 40}, ("no more than layers", "2 x 40 = 80 for 32 layers", "vp 17")),
    ],
)
def test_an_impossible_cut_is_told_what_breaks_it_and_what_is_legal(cut, words):
    with pytest.raises(IllegalCut) as caught:
        check(LLAMA, Job(4096), Cuts.of(gbs=64, **cut), Limits(tp_most=8))
    for word in words:
        assert word in str(caught.value)


def test_what_cannot_fit_says_by_how_much():
    with pytest.raises(DoesNotFit, match=r"fits 80 GiB: the smallest needs .* GiB, .* too many"):
        plan("llama-3-405b", "dgx-h100", 8, 64)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("no-model", "dgx-h100", 8, 64), "no model 'no-model'"),
        (("llama-3-8b", "no-node", 8, 64), "no supernode 'no-node'"),
        (("llama-3-8b", "dgx-h100", 0, 64), "0 chips"),
    ],
)
def test_names_and_numbers_that_mean_nothing(arguments, words):
    with pytest.raises(BadPlan, match=words):
        plan(*arguments)


def test_a_precision_that_the_chip_lacks():
    with pytest.raises(BadPlan, match="'a100-sxm-80gb' has no figure for fp8"):
        plan("llama-3-8b", "dgx-a100", 8, 64, precision="fp8")
