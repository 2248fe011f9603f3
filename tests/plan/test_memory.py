"""Memory against published counts and against figures worked by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.plan.base import Cuts, Job
from starloom.plan.memory import in_flight, memory
from starloom.site import ModelShape, catalogue

GIB = 2**30


def gpt(layers, hidden, heads):
    return catalogue.shapes()["gpt-3-175b"].model_copy(
        update={
            "layers": layers,
            "hidden": hidden,
            "heads": heads,
            "kv_heads": heads,
            "head_dim": hidden // heads,
            "intermediate": 4 * hidden,
        }
    )


@pytest.mark.parametrize(
    ("layers", "hidden", "heads", "pp", "vp", "batch", "mbs", "gib"),
    [
        (48, 6144, 64, 1, 1, 4, 4, 9.5625),
        (96, 12288, 96, 8, 3, 64, 1, 12.3515625),
        (105, 20480, 128, 35, 3, 280, 1, 23.076171875),
        (128, 25600, 160, 64, 1, 512, 1, 26.5625),
    ],
)
def test_activations_are_those_of_the_selective_recomputation_paper(
    layers, hidden, heads, pp, vp, batch, mbs, gib
):
    """ArXiv 2205.05198, Figure 7: sequence parallel and selective, TP 8, to the last digit."""
    job = Job(2048, flash=False, dropout=True)
    cut = Cuts.of(tp=8, pp=pp, vp=vp, gbs=batch, mbs=mbs, recompute="selective", zero=0)
    found = memory(gpt(layers, hidden, heads), job, cut)
    assert found.activations[0] / GIB == pytest.approx(gib, rel=1e-9)


def test_without_any_technique_scores_are_kept():
    """S b h L (10 + 24/t + 5 a s / (h t)): 59.25 GiB for 22B, figure 7 of the same paper."""
    job = Job(2048, flash=False, dropout=True, sequence_parallel=False)
    found = memory(gpt(48, 6144, 64), job, Cuts.of(tp=8, gbs=4, mbs=4, zero=0))
    assert found.activations[0] / GIB == pytest.approx(59.25)


SMALL = ModelShape(
    layers=2, hidden=8, heads=2, kv_heads=1, head_dim=4, intermediate=16, vocab=32, source="test"
)


def test_states_worked_by_hand():
    """A layer: Q, K, V, O 8*4*(2*2+2*1) = 192, MLP 3*8*16 = 384, norms 16; table and head 2*256.

    2 (192 + 384 + 16) + 512 = 1,696 parameters: 2, 4 and 12 bytes each; states over 4 by ZeRO-1.
    """
    found = memory(SMALL, Job(16), Cuts.of(dp=4, gbs=4, zero=1))
    assert found.weights[0] == 2 * 1696
    assert found.gradients[0] == 4 * 1696
    assert found.optimizer[0] == 12 * 1696 / 4


@given(st.sampled_from([1, 2, 4, 8]), st.sampled_from([0, 1, 2]))
def test_each_zero_stage_holds_no_more(dp, zero):
    """Of states; ZeRO-3 holds two layers besides that it gathers."""
    low = memory(SMALL, Job(16), Cuts.of(dp=dp, gbs=8, zero=zero + 1))
    high = memory(SMALL, Job(16), Cuts.of(dp=dp, gbs=8, zero=zero))

    def states(one):
        return one.weights[0] + one.gradients[0] + one.optimizer[0]

    assert states(low) <= states(high)


@given(st.integers(1, 16), st.integers(1, 4), st.integers(1, 64))
def test_no_stage_holds_more_microbatches_than_there_are(pp, vp, microbatches):
    first, last = in_flight(Cuts.of(pp=pp, vp=vp if pp > 1 else 1, gbs=microbatches))
    assert first[0] <= microbatches
    assert last[0] <= microbatches


@given(st.floats(0, 2), st.floats(0, 2))
def test_more_recomputation_keeps_less(one, other):
    low, high = sorted((one, other))
    job = Job(4096)
    shape = catalogue.shapes()["llama-3-8b"]
    kept = [
        memory(shape, job, Cuts.of(gbs=8, recompute=again)).activations[0] for again in (high, low)
    ]
    assert kept[0] <= kept[1] * (1 + 1e-12)


def test_experts_are_cut_by_ep_alone():
    """Experts of one chip go down with EP and not with TP."""
    shape = catalogue.shapes()["qwen3-30b-a3b"]
    base = {"gbs": 64, "dp": 32, "zero": 0}
    wide = memory(shape, Job(4096), Cuts.of(**base, ep=1)).weights[0]
    cut = memory(shape, Job(4096), Cuts.of(**base, ep=8)).weights[0]
    experts = 2 * shape.layers * shape.moe.experts * shape.expert_weights
    assert wide - cut == pytest.approx(experts * 7 / 8)
    assert np.isfinite(cut)
