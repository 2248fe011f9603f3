"""Memory of one chip in training, to the byte: states, activations, and what lies around them.

Weights 2 bytes, gradients 4 (2 where the software keeps them in bf16), optimiser states 12 (fp32
copy and two moments) a parameter, as Megatron's mixed precision has them. Activations: with scores
in memory and dropout as Korthikanti et al. count them (arXiv 2205.05198, eqs. 1-5); with fused
attention tensor by tensor. Stages: the first holds the embedding and the most microbatches, the
last the head and its logits; the fuller of both is taken.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from starloom.plan.base import Cuts, Job
from starloom.plan.layer import HALF
from starloom.site import Chip, ModelShape

Array = NDArray[np.float64]
WEIGHT, GRADIENT, STATES = 2.0, 4.0, 12.0
LOGIT_BYTES = 8.0
"""Of one logit at the peak: bf16, fp32 for the loss, bf16 gradient."""
RESERVED_BYTES = 1.5 * 2**30
"""Context, libraries' buffers: assumed; not part of what a framework counts as allocated."""
FRAGMENTATION = 1.03
"""Reserved over allocated with expandable segments: assumed."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on the fullest stage's chip."""

    weights: Array
    gradients: Array
    optimizer: Array
    activations: Array
    working: Array
    """Logits, and temporaries at the peak."""

    @property
    def allocated(self) -> Array:
        """As a framework counts."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.working

    @property
    def needed(self) -> Array:
        """Of the chip: with fragmentation, and what lies outside the framework."""
        return self.allocated * FRAGMENTATION + RESERVED_BYTES


def fits(memory: Memory, chip: Chip) -> NDArray[np.bool_]:
    """Whether each entry fits the chip."""
    return np.asarray(memory.needed <= chip.memory_gib * 2**30)


def busiest_layers(shape: ModelShape, cuts: Cuts) -> tuple[Array, Array]:
    """Layers of the fullest stage, and how many places the last stage has free for the head.

    Chunks take ceil(L / (pp vp)) layers each; where that leaves places, they are the last stage's.
    The first gives one where there are two or more, as frameworks lay out 126 + 2 over 128; with
    MTP, whose layer and second head are the last stage's too, it gives none.
    """
    chunks = cuts.pp * cuts.vp
    each = np.ceil(shape.layers / chunks)
    spare = chunks * each - shape.layers
    full = each * cuts.vp
    first = 0 if shape.mtp_layers else 1
    return full, np.minimum(np.where(spare >= 2, spare - first, spare), full)


def layer_parameters(shape: ModelShape, cuts: Cuts) -> tuple[Array, Array, Array]:
    """Parameters of a layer on a chip: a plain one, one with experts without them, those.

    Norms, routers and MLA's down projections stand on every TP rank in full.
    """
    h, tp = shape.hidden, cuts.tp
    norm = 2 * h * (2 if shape.layer_norm else 1) + (2 * shape.head_dim if shape.qk_norm else 0)
    if shape.mla is not None:
        whole = h * (shape.mla.kv_rank + shape.mla.rope_dim + (shape.mla.q_rank or 0))
        norm += shape.mla.kv_rank + (shape.mla.q_rank or 0)
    else:
        whole = 0
    kv = np.maximum(shape.kv_heads / tp, 1.0) * tp - shape.kv_heads
    attention = whole + (shape.attention_weights - whole + 2 * kv * h * shape.head_dim) / tp
    if shape.biases or shape.qkv_biases:
        attention = attention + (shape.heads + 2 * shape.kv_heads) * shape.head_dim / tp
    up = 2 if shape.gated else 1
    mlp = shape.mlp_matrices * h * shape.intermediate / tp
    if shape.biases:
        attention = attention + h
        mlp = mlp + up * shape.intermediate / tp + h
    plain = attention + norm + mlp
    if shape.moe is None:
        return plain, np.zeros_like(plain), np.zeros_like(plain)
    moe = shape.moe
    shared = shape.mlp_matrices * h * moe.shared_intermediate / tp
    routed = attention + norm + shared + h * moe.experts
    bias = up * moe.intermediate + h if shape.biases else 0
    experts = moe.experts / cuts.ep * (shape.expert_weights + bias)
    return plain, routed, experts


@dataclass(frozen=True, slots=True)
class Held:
    """Parameters on the chips of the first and of the last stage."""

    first: Array
    first_experts: Array
    last: Array
    last_experts: Array


def held(shape: ModelShape, cuts: Cuts) -> Held:
    """Parameters that one chip holds, whole (before ZeRO-3 shares them out)."""
    plain, routed, experts = layer_parameters(shape, cuts)
    full, free = busiest_layers(shape, cuts)
    free = np.where(cuts.pp > 1, free, np.maximum(full - shape.layers, 0))
    table = shape.vocab * shape.hidden / cuts.tp
    places = shape.positions * shape.hidden
    dense = float(shape.layers - shape.moe_layers)
    leading = np.minimum(full, dense) if shape.moe is not None else full
    with_experts = full - leading
    alone = cuts.pp == 1
    leading = np.where(alone, dense, leading)
    with_experts = np.where(alone, shape.layers - dense, with_experts)
    first = leading * plain + with_experts * routed + table + places
    tail = np.where(alone, 0.0, full - free) if shape.moe is not None else np.zeros_like(full)
    body = tail * routed if shape.moe is not None else (full - free) * plain
    mtp = shape.mtp_layers * ((routed if shape.moe is not None else plain) + 2 * shape.hidden**2)
    head = table + mtp
    last = np.where(alone, first + (mtp if shape.tied_embeddings else head), body + head)
    last_experts = np.where(alone, with_experts * experts, tail * experts)
    last_experts = last_experts + (shape.mtp_layers * experts if shape.moe is not None else 0.0)
    return Held(first, with_experts * experts, last, last_experts)


def layer_activations(shape: ModelShape, job: Job, cuts: Cuts) -> tuple[Array, Array, Array]:
    """Bytes kept of one layer and microbatch: plain, with experts, and its input alone."""
    tokens = cuts.mbs * job.seq_tokens / cuts.cp
    h, tp = float(shape.hidden), cuts.tp
    cut = tokens / tp if job.sequence_parallel else tokens
    selective = np.minimum(cuts.recompute, 1.0)
    if not job.flash:
        parts = 34.0 * h * cut if job.sequence_parallel else h * tokens * (10 + 24 / tp)
        scores = 5.0 * shape.heads / tp * cuts.mbs * job.seq_tokens**2
        kept = parts + (1 - selective) * scores
        return kept, kept, HALF * h * cut
    norms = 2 * HALF * h * cut
    if shape.mla is not None:
        mla = shape.mla
        spread = 2 * (mla.nope_dim + mla.rope_dim) + mla.v_dim
        wide = (1 - selective) * spread + mla.v_dim
        attention = HALF * tokens * (shape.heads / tp * wide)
        attention = attention + HALF * tokens * 2 * (mla.kv_rank + (mla.q_rank or 0))
    else:
        groups = np.maximum(shape.kv_heads / tp, 1.0)
        attention = HALF * tokens * (2 * shape.heads / tp + 2 * groups) * shape.head_dim
    up = 2.0 if shape.gated else 1.0
    wide_mlp = HALF * (up + 1 - selective)
    plain = norms + attention + wide_mlp * tokens * shape.intermediate / tp
    if shape.moe is None:
        return plain, plain, HALF * h * cut
    copies = tokens / tp * shape.moe.active * job.imbalance
    routed = norms + attention + copies * (HALF * h + wide_mlp * shape.moe.intermediate)
    routed = routed + wide_mlp * tokens * shape.moe.shared_intermediate / tp
    return plain, routed, HALF * h * cut


def in_flight(cuts: Cuts) -> tuple[Array, Array]:
    """Microbatches whose activations the first and the last stage hold, in stages' worth.

    1F1B p, interleaved p (1 + (p-1)/(p v)) (arXiv 2205.05198 section 4.2.3), DualPipe p + 1 on
    every stage (arXiv 2412.19437 table 2), ZB-V p on every stage (arXiv 2405.15362); never more
    than there are.
    """
    p, v, m = cuts.pp, cuts.vp, cuts.microbatches
    first = np.where(v > 1, p + (p - 1) / v, p)
    last = np.where(v > 1, 1 + (v - 1) / v * np.minimum(p, 2), 1.0)
    even = np.where(cuts.schedule == 3, p + 1, p)
    spread = (cuts.schedule >= 2) & (p > 1)
    first, last = np.where(spread, even, first), np.where(spread, even, last)
    return np.minimum(first, m), np.minimum(last, m)


def memory(shape: ModelShape, job: Job, cuts: Cuts, gradient: float = GRADIENT) -> Memory:
    """Bytes of the fuller of the first and the last stage; `gradient` bytes of one gradient."""
    full, free = busiest_layers(shape, cuts)
    own = held(shape, cuts)
    plain, routed, entry = layer_activations(shape, job, cuts)
    dense = float(shape.layers - shape.moe_layers)
    leading = np.minimum(full, dense)
    layers = np.where(cuts.pp == 1, shape.layers, full)
    front = leading * plain + (layers - leading) * routed
    back = np.maximum(layers - np.where(cuts.pp > 1, free, 0.0), 0.0) * (
        routed if shape.moe is not None else plain
    )
    whole = np.maximum(cuts.recompute - 1, 0.0)
    front = front + whole * (layers * entry - front)
    back = back + whole * (layers * entry - back)
    first_flight, last_flight = in_flight(cuts)
    tokens = cuts.mbs * job.seq_tokens / cuts.cp
    logits = LOGIT_BYTES * tokens * shape.vocab / cuts.tp
    again = np.where(whole > 0, np.maximum(plain, routed), 0.0)
    mlp = shape.mlp_matrices * shape.hidden * shape.intermediate / cuts.tp
    working = 2 * HALF * tokens * shape.hidden + again
    if shape.moe is None and job.flash and not job.frozen:
        # Gradients of one MLP before they are added to the buffers, in fp32.
        working = working + GRADIENT * mlp
    layer, rest, experts = layer_parameters(shape, cuts)
    # ZeRO-3 holds the layer at work and the one being gathered whole.
    working = working + np.where(
        cuts.zero >= 3, 2 * WEIGHT * np.maximum(layer, rest + experts), 0.0
    )
    shared = _states(job, cuts, own.first, own.first_experts, gradient)
    shared_last = _states(job, cuts, own.last, own.last_experts, gradient)
    one = (*shared, front * first_flight, working + np.where(cuts.pp == 1, logits, 0.0))
    other = (*shared_last, back * last_flight, working + logits)
    fuller = sum(other) > sum(one)
    return Memory(*(np.where(fuller, b, a) for a, b in zip(one, other, strict=True)))


def _states(
    job: Job, cuts: Cuts, dense: Array, experts: Array, gradient: float
) -> tuple[Array, Array, Array]:
    """Weights, gradients, optimiser states of a stage's parameters under each ZeRO stage."""
    data = cuts.dp * cuts.cp
    expert_data = np.maximum(data * cuts.tp / cuts.ep, 1.0)
    cut_states = dense / data + experts / expert_data
    whole = dense + experts
    twice = np.where((cuts.schedule == 3) & (cuts.pp > 1), 2.0, 1.0)
    weights = WEIGHT * np.where(cuts.zero >= 3, cut_states, whole) * twice
    if job.frozen:
        return weights, np.zeros_like(weights), np.zeros_like(weights)
    gradients = gradient * np.where(cuts.zero >= 2, cut_states, whole)
    return weights, gradients, STATES * np.where(cuts.zero >= 1, cut_states, whole)
