"""Explanations, goodput, calibration, configurations, the catalogue and the profiles that ship."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.plan import (
    BadPlan,
    Cuts,
    Deployment,
    Job,
    cluster_of,
    evaluate,
    explain,
    goodput,
    profiles,
)
from starloom.plan.calibrate import Free, fit
from starloom.plan.hf import shape_of
from starloom.plan.launch import megatron, sglang, vllm
from starloom.plan.network import FabricNetwork, once
from starloom.plan.profiles import MOST_FITTED, Profile, profile, profile_of
from starloom.site import catalogue

PLAIN = Profile(name="plain", chip="x", release="1", source="test")


def test_the_tree_adds_up_to_the_estimate():
    shape, job = catalogue.shapes()["qwen3-30b-a3b"], Job(4096)
    where = cluster_of(catalogue.supernodes()["dgx-h100"], PLAIN)
    cut = Cuts.of(dp=16, ep=8, gbs=64)
    tree = explain(shape, job, where, cut)
    step, memory = tree.children[:2]
    found = evaluate(shape, job, where, cut)
    assert sum(child.value for child in step.children) == pytest.approx(float(found.step_s[0]))
    assert memory.value == pytest.approx(float(found.memory.needed[0]) / 2**30)
    text = "\n".join(tree.lines())
    assert "experts up" in text
    assert "dispatch + combine" in text


def test_goodput_worked_by_hand():
    """1,000 chips that fail once in 100,000 h each: M = 100 h; C = 36 s: Young gives 5,091 s."""
    found = goodput(1000, 36.0, 0.0, failures_per_chip_hour=1e-5, interval_s=5000.0)
    assert found.mtbf_s == pytest.approx(360_000)
    assert found.share == pytest.approx(5000 / 5036 * (1 - 2518 / 360_000))
    best = goodput(1000, 36.0, 0.0, failures_per_chip_hour=1e-5)
    assert best.interval_s == pytest.approx(np.sqrt(2 * 36 * 360_000), rel=0.01)


@given(st.floats(1, 600), st.floats(1, 1e5))
def test_no_interval_beats_dalys_by_much(checkpoint, interval):
    """The interval that we choose is within a percent of any other's share."""
    best = goodput(1000, checkpoint, 300.0, failures_per_chip_hour=1e-5)
    other = goodput(1000, checkpoint, 300.0, failures_per_chip_hour=1e-5, interval_s=interval)
    assert other.share <= best.share + 0.01


def test_a_fit_finds_the_parameters_that_made_the_times():
    """Times of a known profile, and from other starting values back to it."""
    shape, job = catalogue.shapes()["llama-3-8b"], Job(4096)
    node = catalogue.supernodes()["dgx-h100"]
    cuts = Cuts.of(tp=[1, 2, 4, 8, 8], dp=[8, 4, 2, 1, 1], gbs=64, mbs=[1, 1, 1, 1, 4], zero=1)

    def predict(known):
        return evaluate(shape, job, cluster_of(node, known["p"]), cuts).step_s

    true = PLAIN.model_copy(update={"name": "p", "gemm": 0.62, "launch_us": 9.0})
    measured = predict({"p": true})
    free = [Free("gemm", ("p",), 0.8), Free("launch_us", ("p",), 3.0)]
    found = fit({"p": PLAIN}, free, predict, measured, list("aabbc"), pull=1e-3)
    assert found.profiles["p"].gemm == pytest.approx(0.62, rel=0.02)
    assert found.mape_pct < 0.5
    assert set(found.left_out) == {"a", "b", "c"}


def test_a_fit_refuses_more_than_ten_parameters_and_no_rows():
    free = [Free("gemm", ("p",), 0.8)] * (MOST_FITTED + 1)
    with pytest.raises(BadPlan, match="at most 10"):
        fit({"p": PLAIN}, free, lambda _: np.ones(3), np.ones(3))
    with pytest.raises(BadPlan, match="nothing to fit"):
        fit({"p": PLAIN}, free[:1], lambda _: np.ones(0), np.ones(0))


def test_shipped_profiles_name_chips_and_what_they_were_fitted_to():
    for one in profiles().values():
        assert one.chip in catalogue.chips()
        assert len(one.fitted) <= MOST_FITTED
        assert one.fitted_on or not one.fitted
    assert profile_of("h100-sxm").fitted
    assert profile_of("ascend-910c").release == "none"
    with pytest.raises(BadPlan, match="no profile"):
        profile("none-such")


def test_the_catalogue_agrees_with_itself_and_with_papers():
    """Supernodes name chips and links that exist; models have the weights that their names say."""
    parts = catalogue.link_generations()
    for node in catalogue.supernodes().values():
        assert node.chip in catalogue.chips()
        assert {node.scale_up, node.scale_out} <= set(parts)
        assert FabricNetwork(node).time_s("all_reduce", 1e6, 2.0) > 0
    published = {
        "llama-3-405b": (405e9, None),
        "deepseek-v3": (671e9, 37e9),
        "qwen3-235b-a22b": (235e9, 22e9),
        "kimi-k2": (1.03e12, 32e9),
        "palm-540b": (540.35e9, None),
        "nemotron-4-340b": (341e9, None),
        "mt-nlg-530b": (529.6e9, None),
    }
    for name, (whole, active) in published.items():
        shape = catalogue.shapes()[name]
        assert shape.weights == pytest.approx(whole, rel=0.01), name
        if active:
            assert shape.active_weights == pytest.approx(active, rel=0.04), name


DEEPSEEK = {
    "model_type": "deepseek_v3",
    "num_hidden_layers": 61,
    "hidden_size": 7168,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "intermediate_size": 18432,
    "vocab_size": 129280,
    "n_routed_experts": 256,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 2048,
    "n_shared_experts": 1,
    "first_k_dense_replace": 3,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
    "qk_nope_head_dim": 128,
    "v_head_dim": 128,
    "num_nextn_predict_layers": 1,
}


def test_a_config_json_gives_the_catalogues_shape():
    known = catalogue.shapes()["deepseek-v3"]
    read = shape_of(DEEPSEEK)
    assert read.weights == known.weights
    assert read.mla == known.mla
    assert read.kv_bytes_per_token == known.kv_bytes_per_token
    with pytest.raises(BadPlan, match="lacks num_hidden_layers"):
        shape_of({"hidden_size": 8, "num_attention_heads": 1, "vocab_size": 8})


@given(st.integers(0, 2**32 - 1))
def test_each_distinct_question_is_asked_once(seed):
    """Above the size that is asked whole, answers are spread back to every row that asked."""
    asked = []

    def ask(parts):
        asked.append(len(parts[0]))
        return parts[0] * 10 + parts[1]

    rng = np.random.default_rng(seed)
    first, second = rng.integers(1, 4, 400) * 1.0, rng.choice([5.0, 7.0], 400)
    assert (once(ask, first, second) == first * 10 + second).all()
    assert asked == [len(set(zip(first.tolist(), second.tolist(), strict=True)))]


def test_a_cut_as_megatrons_flags():
    """Stages, chunks, experts, sharding and recomputation, in the names that Megatron-LM has."""
    shape = catalogue.shapes()["qwen3-235b-a22b"]
    cut = Cuts.of(tp=2, pp=8, vp=4, dp=16, ep=32, gbs=2048, recompute="full")
    text = megatron(shape, Job(4096, "mxfp8"), cut)
    for flag in (
        "--pipeline-model-parallel-size 8",
        "--num-virtual-stages-per-pipeline-rank 4",
        "--expert-model-parallel-size 32",
        "--use-distributed-optimizer",
        "--recompute-num-layers 3",
        "--fp8-recipe mxfp8",
    ):
        assert flag in text
    with pytest.raises(BadPlan, match="no schedule 'dualpipe'"):
        megatron(shape, Job(4096), Cuts.of(pp=2, gbs=8, schedule="dualpipe"))


def test_a_deployment_as_engines_flags():
    """SGLang counts all ranks as `tp`; vLLM one attention group's; apart makes two commands."""
    one = Deployment("apart", 2, 4, 8, 24, 1, 2, 512, 0.5, 0.02, 1000.0, 0.5)
    there = vllm("m", one, "fp8", 2048)
    assert "--tensor-parallel-size 2" in there
    assert there.count("--kv-transfer-config") == 2
    assert "--max-num-seqs 64" in there
    other = sglang("m", one, "fp8", 2048)
    assert "--tp-size 8" in other
    assert "--disaggregation-mode decode" in other
