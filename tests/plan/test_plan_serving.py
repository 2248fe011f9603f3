"""Serving: passes worked by hand, latencies that must hold, the best deployment."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.plan import BadPlan, DoesNotFit, Layouts, Load, Server, Serving, cluster_of, deploy
from starloom.plan.profiles import Profile
from starloom.plan.serving import apart, together
from starloom.site import catalogue

FREE = Profile(
    name="free", chip="x", release="1", gemm=0.5, memory=0.5, launch_us=0, host_us=0, source="test"
)


def server(model="llama-3-8b", node="dgx-h100", weights="bf16", profile=FREE, **layout):
    cluster = cluster_of(catalogue.supernodes()[node], profile)
    return Server(
        catalogue.shapes()[model], Serving(weights, kv_bytes=2.0), cluster, Layouts.of(**layout)
    )


def test_decoding_alone_reads_all_weights_once():
    """A batch of one: every matrix at half of 3,350 GB/s; the KV of one short context is little."""
    shape = catalogue.shapes()["llama-3-8b"]
    one = np.array([1.0])
    took = server().decode(one, one)
    read = 2 * (shape.weights - shape.vocab * shape.hidden)
    assert took.total_s[0] == pytest.approx(read / (0.5 * 3350e9), rel=0.02)


def test_prefill_computes_two_flops_a_weight_and_token():
    shape, prompt = catalogue.shapes()["llama-3-8b"], np.array([4096.0])
    took = server().prefill(prompt)
    flops = 2 * shape.layers * shape.layer_weights * 4096
    assert took.products_s[0] == pytest.approx(flops / (0.5 * 989e12), rel=0.1)


def test_latent_keys_stand_on_every_rank():
    """DeepSeek-V3: 61 layers of 576 numbers a token, whatever the TP."""
    kept = [server("deepseek-v3", tp=tp).kv_bytes_per_token()[0] for tp in (1, 8)]
    assert kept == [61 * 576 * 2] * 2
    cut = [server(tp=tp).kv_bytes_per_token()[0] for tp in (1, 8)]
    assert cut[0] == 8 * cut[1] == 131072


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 256), st.integers(16, 8192), st.integers(16, 2048))
def test_more_users_wait_longer_and_get_tokens_slower(users, prompt, output):
    one = server(tp=8)
    few, many = (
        together(one, np.array([float(prompt)]), np.array([float(output)]), np.array([float(n)]))
        for n in (users, users + 8)
    )
    assert few.ttft_s[0] <= many.ttft_s[0] + 1e-12
    assert few.tpot_s[0] <= many.tpot_s[0] + 1e-12


def test_apart_decoding_is_not_held_up_by_prompts():
    """The same load: a token comes faster where prompts are filled elsewhere."""
    one = server(tp=4)
    asked = [np.array([value]) for value in (4096.0, 256.0, 64.0)]
    shared = together(one, *asked)
    alone = apart(one, one, *asked, np.array([2.0]), np.array([1.0]))
    assert alone.tpot_s[0] < shared.tpot_s[0]


def test_a_deployment_meets_its_limits_and_is_the_best_found():
    cluster = cluster_of(catalogue.supernodes()["dgx-h100"], FREE)
    load = Load(1024, 256, ttft_most_s=1.0, tpot_most_s=0.05)
    found = deploy(catalogue.shapes()["llama-3-70b"], Serving("fp8"), cluster, load, 8)
    rates = [one.tokens_per_s_chip for one in found]
    assert rates == sorted(rates, reverse=True)
    assert all(one.ttft_s <= 1.0 and one.tpot_s <= 0.05 and one.chips <= 8 for one in found)
    cost = 1e6 * 2.0 / 3600 / rates[0]
    assert found[0].usd_per_million_tokens == pytest.approx(cost)


def test_limits_that_none_meets_name_the_nearest():
    cluster = cluster_of(catalogue.supernodes()["dgx-h100"], FREE)
    shape = catalogue.shapes()["llama-3-70b"]
    with pytest.raises(BadPlan, match="the nearest gives"):
        deploy(shape, Serving("fp8"), cluster, Load(1024, 256, tpot_most_s=1e-6), 8)
    with pytest.raises(DoesNotFit, match="hold no replica"):
        deploy(shape, Serving("bf16"), cluster, Load(1024, 256), 1)
