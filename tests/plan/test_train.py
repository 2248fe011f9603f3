"""The step time: parts that add up, formulas by hand, what must hold at any cut."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.plan import Cluster, Cuts, Job, cluster_of, evaluate
from starloom.plan.base import RECOMPUTE
from starloom.plan.layer import attended_pairs
from starloom.plan.network import FabricNetwork
from starloom.plan.operators import Kernels
from starloom.plan.profiles import Profile
from starloom.plan.train import Estimate, model_flops_per_token
from starloom.site import Chip, catalogue

PLAIN = Profile(
    name="plain", chip="chip", release="1", gemm=0.5, memory=0.5, launch_us=0, source="test"
)
CHIP = Chip(
    name="chip", bf16_tflops=100, memory_gib=80, memory_gb_per_s=1000, source="test", verified="no"
)


def cluster(node="dgx-h100", profile=PLAIN):
    return cluster_of(catalogue.supernodes()[node], profile)


def test_a_product_takes_the_longer_of_arithmetic_and_memory():
    """2*1000*2000*4000 FLOPs at 50 TFLOP/s: 320 us. One row: 16 MB of weights at 500 GB/s."""
    kernels = Kernels(CHIP, PLAIN)
    m, n, k = (np.array([float(x)]) for x in (1000, 2000, 4000))
    assert kernels.gemm_s(m, n, k)[0] == pytest.approx(320e-6)
    one = np.array([1.0])
    moved = 2 * (4000 + 2000 * 4000) + 2 * 2000
    assert kernels.gemm_s(one, n, k)[0] == pytest.approx(moved / 5e11)


def test_the_last_wave_of_tiles_is_paid_where_a_profile_says_so():
    """On 2 cores, 3 tiles of 128 x 256 take two waves of which three quarters are filled."""
    chip = CHIP.model_copy(update={"cores": 2})
    bare = Kernels(chip, PLAIN.model_copy(update={"wave": 1.0}))
    m, n, k = (np.array([float(x)]) for x in (128, 768, 100_000))
    assert bare.filled(m, n)[0] == pytest.approx(0.9)  # six tiles of 128 x 128 fill three waves
    whole = Kernels(chip, PLAIN).gemm_s(m, n, k)[0]
    assert bare.gemm_s(m, n, k)[0] == pytest.approx(whole / 0.9)


def test_pairs_of_causal_and_sliding_attention():
    """8 tokens: 36 pairs; a window of 2 on half of the layers: (36 + 15) / 2; unmasked 64."""
    shape = catalogue.shapes()["llama-3-8b"]
    assert attended_pairs(shape, 8, flash=True) == 36
    sliding = shape.model_copy(update={"window": 2, "window_layers": 16})
    assert attended_pairs(sliding, 8, flash=True) == pytest.approx((36 + 15) / 2)
    assert attended_pairs(shape, 8, flash=False) == 64


def test_model_flops_are_those_that_papers_print():
    """Llama 3 405B at 8,192: 2,524 GFLOP a token as Megatron-Bridge prints them."""
    shape = catalogue.shapes()["llama-3-405b"]
    flops = model_flops_per_token(shape, 8192, causal=True)
    assert flops == pytest.approx(2524e9, rel=0.01)


CUTS = st.fixed_dictionaries(
    {
        "tp": st.sampled_from([1, 2, 4, 8]),
        "pp": st.sampled_from([1, 2, 4]),
        "vp": st.sampled_from([1, 2]),
        "dp": st.sampled_from([1, 2, 8]),
        "cp": st.sampled_from([1, 2]),
        "mbs": st.sampled_from([1, 2]),
        "zero": st.sampled_from([0, 1, 2, 3]),
        "recompute": st.sampled_from(RECOMPUTE),
        "schedule": st.sampled_from(["1f1b", "zb-h1", "zb-v", "dualpipe"]),
    }
)


@settings(deadline=None, max_examples=20)
@given(CUTS)
def test_the_parts_of_a_step_add_up(cut):
    """And none is below 0, whatever the cut."""
    shape = catalogue.shapes()["llama-3-8b"]
    found = evaluate(shape, Job(4096), cluster(), Cuts.of(gbs=64, **cut))
    parts = [float(getattr(found, name)[0]) for name in Estimate.PARTS]
    assert sum(parts) == pytest.approx(float(found.step_s[0]))
    assert min(parts) >= -1e-9
    assert 0 < found.mfu[0] < 1.01


@settings(deadline=None, max_examples=5)
@given(st.lists(CUTS, min_size=2, max_size=4))
def test_many_cuts_at_once_cost_what_each_costs_alone(cuts):
    """The struct of arrays against one row at a time, the plain oracle."""
    shape, job, where = catalogue.shapes()["qwen3-30b-a3b"], Job(4096), cluster()
    single = [Cuts.of(gbs=64, **{**cut, "tp": min(cut["tp"], 4)}) for cut in cuts]
    names = Cuts.__dataclass_fields__
    whole = Cuts(**{n: np.concatenate([getattr(one, n) for one in single]) for n in names})
    together = evaluate(shape, job, where, whole)
    alone = [evaluate(shape, job, where, one) for one in single]
    assert together.step_s == pytest.approx([float(one.step_s[0]) for one in alone])
    assert together.memory.needed == pytest.approx([float(one.memory.needed[0]) for one in alone])


def test_a_pipeline_of_equal_stages_idles_as_its_formula_says():
    """1F1B: (p - 1) of a stage's mean time; interleaving by v divides it."""
    shape = catalogue.shapes()["llama-3-70b"]
    plain, cut = (
        evaluate(shape, Job(4096), cluster(), Cuts.of(pp=4, vp=v, gbs=64)) for v in (1, 5)
    )
    assert cut.bubble_s[0] == pytest.approx(plain.bubble_s[0] / 5)


def test_zero_bubble_schedules_idle_less():
    shape = catalogue.shapes()["llama-3-70b"]
    idle = [
        evaluate(shape, Job(4096), cluster(), Cuts.of(pp=8, gbs=64, schedule=name)).bubble_s[0]
        for name in ("1f1b", "zb-h1", "zb-v")
    ]
    assert idle[0] > idle[1] > idle[2] >= 0


def test_a_larger_supernode_is_never_slower_at_the_same_cut():
    """EP 64 over nodes of 8, of 64 and of 128."""
    node = catalogue.supernodes()["dgx-b200"]
    shape, cut = catalogue.shapes()["qwen3-235b-a22b"], Cuts.of(dp=64, ep=64, gbs=256)
    times = []
    for size in (8, 64, 128):
        where = Cluster(catalogue.chips()[node.chip], PLAIN, FabricNetwork(node, size), size)
        times.append(evaluate(shape, Job(4096), where, cut).step_s[0])
    assert times[0] > times[1] >= times[2]


def test_frozen_weights_cost_no_gradients():
    """LoRA's backward pass: no dW, no optimiser, no reduction."""
    shape, cut = catalogue.shapes()["llama-3-8b"], Cuts.of(dp=8, gbs=64)
    whole = evaluate(shape, Job(4096), cluster(), cut)
    frozen = evaluate(shape, Job(4096, frozen=True), cluster(), cut)
    assert frozen.optimizer_s[0] == frozen.dp_s[0] == 0
    assert frozen.compute_s[0] < 0.75 * whole.compute_s[0]
    assert frozen.memory.gradients[0] == 0
