import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.plan import Batch, step_time
from starloom.site import Chip, ModelShape, catalogue

CHIP = Chip(
    name="chip",
    fp32_tflops=1,
    bf16_tflops=10,
    memory_gib=1,
    memory_gb_per_s=100,
    compute_efficiency=1,
    memory_efficiency=1,
    launch_us=5,
    source="made up for the test",
    verified="no",
)
SHAPE = ModelShape(
    layers=2, hidden=8, heads=4, kv_heads=2, head_dim=2, intermediate=16, vocab=32, source="test"
)


def test_a_step_worked_by_hand():
    """Three new tokens after five cached ones, and one decode at seven: counted on paper.

    Weights of a layer: 8*2*(2*4 + 2*2) + 3*8*16 = 576; pairs: 3*5 + 6 + (7 + 1) = 29;
    KV a token: 2*2*2*2*2 = 32 bytes; tokens held: 8 + 8.
    """
    cost = step_time(CHIP, SHAPE, Batch(prefill=[(3, 5)], decode=[7]))
    assert cost.matrices.flops == 2 * 2 * 576 * 4
    assert cost.matrices.bytes == 2 * 576 * 2
    assert cost.attention.flops == 4 * 2 * 4 * 2 * 29
    assert cost.attention.bytes == (16 + 4) * 32
    assert cost.head.flops == 2 * 32 * 8 * 2
    assert cost.head.bytes == 32 * 8 * 2
    assert cost.attention.time_s == pytest.approx(max(64 * 29 / 1e13, 640 / 1e11))
    parts = cost.matrices.time_s + cost.attention.time_s + cost.head.time_s
    assert cost.total_s == pytest.approx(parts + 5e-6)


def test_nothing_costs_nothing():
    assert step_time(CHIP, SHAPE, Batch()).total_s == 0


@given(st.integers(1, 5000), st.integers(0, 5000), st.integers(1, 4999))
def test_a_prompt_in_chunks_computes_the_same_pairs(tokens, context, cut):
    """Cutting a prefill into chunks changes no FLOP of attention."""
    cut = min(cut, tokens)
    whole = step_time(CHIP, SHAPE, Batch(prefill=[(tokens, context)])).attention.flops
    parts = [(cut, context), (tokens - cut, context + cut)]
    assert step_time(CHIP, SHAPE, Batch(prefill=parts)).attention.flops == pytest.approx(whole)


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=8))
def test_a_decode_step_is_never_faster_than_reading_the_weights(contexts):
    """The memory floor of decoding: all weights once a step, at full bandwidth."""
    chip, shape = catalogue.chips()["h100-sxm"], catalogue.shapes()["llama-3-8b"]
    floor_s = shape.layers * shape.layer_weights * 2 / (chip.memory_gb_per_s * 1e9)
    assert step_time(chip, shape, Batch(decode=contexts)).total_s > floor_s
