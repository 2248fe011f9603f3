"""The step time of training under many cuts at once, and what it is made of."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from starloom.plan.base import Cluster, Cuts, Job
from starloom.plan.layer import HALF, LayerCost, Shard, layer_cost
from starloom.plan.memory import Memory, busiest_layers, held, memory
from starloom.plan.operators import Kernels
from starloom.site import ModelShape

Array = NDArray[np.float64]
ADAM_BYTES = 34.0
"""Of one parameter's update: gradient, two moments and master copy read, three written, the weight
written (30), and the gradient read once more for the norm."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Arrays of the shape (n,). The parts of a step add up to `step_s`."""

    step_s: Array
    compute_s: Array
    """Kernels of all microbatches on the fullest stage."""
    tp_s: Array
    cp_s: Array
    ep_s: Array
    pp_s: Array
    dp_s: Array
    """Exposed communication, by the parallel dimension that makes it."""
    bubble_s: Array
    optimizer_s: Array
    straggler_s: Array
    tokens_per_s_chip: Array
    mfu: Array
    """Model FLOPs without recomputation, over the bf16 peak."""
    memory: Memory

    PARTS = (
        "compute_s",
        "tp_s",
        "cp_s",
        "ep_s",
        "pp_s",
        "dp_s",
        "bubble_s",
        "optimizer_s",
        "straggler_s",
    )


def model_flops_per_token(shape: ModelShape, seq_tokens: int, *, causal: bool = False) -> float:
    """Forward and backward: 6 a weight in use, and 6 (d_k + d_v) heads seq of attention a layer.

    As Megatron and PaLM (arXiv 2204.02311, appendix B) count; `causal` halves attention.
    """
    head = shape.vocab * shape.hidden
    weights = shape.layers * shape.active_layer_weights + head
    if shape.mla is not None:
        wide = shape.mla.nope_dim + shape.mla.rope_dim + shape.mla.v_dim
    else:
        wide = 2 * shape.head_dim
    pairs = seq_tokens / 2 if causal else seq_tokens
    extra = shape.mtp_layers * (shape.active_layer_weights + 2 * shape.hidden**2 + head)
    layers = shape.layers + shape.mtp_layers
    return 6.0 * (weights + extra) + 6.0 * layers * shape.heads * wide * pairs


def evaluate(
    shape: ModelShape, job: Job, cluster: Cluster, cuts: Cuts, known: Memory | None = None
) -> Estimate:
    """Price every cut, taken as legal (`legal.check`); `known` is their memory, if known."""
    shard, back = _shards(cuts)
    cost = layer_cost(shape, job, cluster, shard)
    head = _head(shape, job, cluster, shard)
    again = _recomputed(job, cost)
    kernels = Kernels(cluster.chip, cluster.profile, job.precision)

    def of(per_shard: Array) -> Array:
        return per_shard[back]

    full, free = busiest_layers(shape, cuts)
    layers = np.where(cuts.pp == 1, shape.layers, full)
    recompute = _between(of(again), cuts.recompute)
    forward, inputs, weights = of(cost.forward_s), of(cost.input_s), of(cost.weight_s)
    if job.frozen:
        weights = np.zeros_like(weights)
    tp, cp, ep = (2 * of(part) for part in (cost.tp_s, cost.cp_s, cost.ep_s))
    whole_again = np.maximum(cuts.recompute - 1, 0.0)
    tp = tp + whole_again * of(cost.tp_s)
    ep = ep + whole_again * of(cost.ep_s)
    # DualPipe runs one microbatch's exchange under another's products (arXiv 2412.19437, 3.2.1).
    folded = (cuts.schedule == 3) & (cuts.pp > 1)
    ep = np.where(folded, np.maximum(ep - (forward + inputs + weights), 0.0), ep)
    compute = forward + inputs + weights + recompute
    host_s = 1e-6 * cluster.profile.issue_us * cost.launches
    busy = compute + tp + cp + ep
    compute = compute + (busy**4 + host_s**4) ** 0.25 - busy
    layer_s = compute + tp + cp + ep
    tail_s = of(head)

    m = cuts.microbatches
    alone = cuts.pp == 1
    tail_layers = np.where(alone, layers, np.maximum(layers - free, 0.0))
    stage_s = np.maximum(layers * layer_s, tail_layers * layer_s + tail_s)
    mean_s = (shape.layers * layer_s + tail_s) / cuts.pp
    scale = m * stage_s
    parts = {
        name: np.where(stage_s > layers * layer_s, tail_layers, layers) * m * part
        for name, part in (("tp_s", tp), ("cp_s", cp), ("ep_s", ep))
    }
    bubble = _bubble_s(cuts, mean_s, forward / layer_s, weights / layer_s)
    send_s = _send_s(shape, job, cluster, cuts)
    dp_s, optimizer_s = _data_parallel(shape, job, cluster, cuts, kernels, stage_s)
    body = scale + bubble + send_s + dp_s + optimizer_s
    late = body * cluster.profile.straggler * np.sqrt(2 * np.log(np.maximum(cuts.world, 1)))
    step = body + late
    tokens = cuts.gbs * job.seq_tokens / step / cuts.world
    flops = model_flops_per_token(shape, job.seq_tokens)
    return Estimate(
        step_s=step,
        compute_s=scale - sum(parts.values()),
        tp_s=parts["tp_s"],
        cp_s=parts["cp_s"],
        ep_s=parts["ep_s"],
        pp_s=send_s,
        dp_s=dp_s,
        bubble_s=bubble,
        optimizer_s=optimizer_s,
        straggler_s=late,
        tokens_per_s_chip=tokens,
        mfu=tokens * flops / (1e12 * cluster.chip.bf16_tflops),
        memory=memory(shape, job, cuts, float(cluster.profile.grad_bytes))
        if known is None
        else known,
    )


def _shards(cuts: Cuts) -> tuple[Shard, NDArray[np.int64]]:
    """The distinct (tp, cp, ep, mbs), and which of them each cut has."""
    key = np.zeros(len(cuts))
    for axis in (cuts.tp, cuts.cp, cuts.ep, cuts.mbs):
        values, place = np.unique(axis, return_inverse=True)
        key = key * len(values) + place
    _, first, back = np.unique(key, return_index=True, return_inverse=True)
    shard = Shard(cuts.tp[first], cuts.cp[first], cuts.ep[first], cuts.mbs[first])
    return shard, np.asarray(back, dtype=np.int64)


def _head(shape: ModelShape, job: Job, cluster: Cluster, shard: Shard) -> Array:
    """Logits, loss and their backward pass, with what further tokens' prediction adds; bf16."""
    kernels = Kernels(cluster.chip, cluster.profile, "bf16")
    tokens = shard.mbs * job.seq_tokens / shard.cp
    wide = np.full_like(tokens, float(shape.hidden))
    logits = kernels.gemm("head", tokens, shape.vocab / shard.tp, wide)
    loss = kernels.stream(
        "loss", 12.0 * tokens * shape.vocab / shard.tp, 8.0 * tokens * shape.vocab / shard.tp, 4
    )
    gather = cluster.network.time_s("all_gather", HALF * tokens * shape.hidden, shard.tp)
    once = logits.forward_s + logits.backward_s + loss.forward_s + loss.backward_s + 2 * gather
    if not shape.mtp_layers:
        return once
    extra = layer_cost(shape, job, cluster, shard)
    joined = kernels.gemm("MTP projection", tokens / shard.tp, wide, 2 * wide)
    layer: Array = extra.forward_s + extra.input_s + extra.weight_s + 2 * extra.comm_s
    return once + shape.mtp_layers * (once + layer + joined.forward_s + joined.backward_s)


def _recomputed(job: Job, cost: LayerCost) -> Array:
    """Seconds a layer and microbatch by recomputation: none, selective, full; (shards, 3).

    Selective: attention where its scores are kept in memory; with fused attention the norms, the
    MLP's activation and MLA's up projections, as DeepSeek-V3 did (arXiv 2412.19437, section 3.2.3).
    """
    none = np.zeros_like(cost.forward_s)
    if job.flash:
        streams = [op for op in cost.attention if op.name == "norms"]
        share = cost.dense_share
        some = sum((op.forward_s for op in streams), none)
        some = some + share * sum((op.forward_s for op in cost.dense if op.kind == "stream"), none)
        some = some + (1 - share) * sum(
            (op.forward_s for op in cost.experts if op.name.endswith("activation")), none
        )
        some = some + sum(
            (op.forward_s for op in cost.attention if "up projection" in op.name), none
        )
    else:
        some = cost.core.forward_s
    return np.stack([none, some, cost.forward_s], axis=1)


def _between(levels: Array, at: Array) -> Array:
    """Levels (n, 3) at `at`: between two levels the share of layers that have the higher one."""
    low = np.minimum(at.astype(np.int64), 1)
    rows = np.arange(len(at))
    share = at - low
    result: Array = (1 - share) * levels[rows, low] + share * levels[rows, low + 1]
    return result


def _bubble_s(cuts: Cuts, mean_s: Array, forward: Array, weight: Array) -> Array:
    """Idle time of a stage. F, B, W: forward, input-gradient and weight-gradient shares of a stage.

    1F1B (p-1)(F+B+W), over v where interleaved (arXiv 2104.04473); ZB-H1 (p-1)(F+B-W), ZB-V
    (p-1)(F+B-2W) (arXiv 2401.10241, 2405.15362); DualPipe (p/2-1)(F&B + B - 3W) with B of both
    gradients and F&B the sum (arXiv 2412.19437, table 2). Never below 0.
    """
    p = cuts.pp
    f, w = forward * mean_s, weight * mean_s
    b = mean_s - f - w
    plain = (p - 1) * mean_s / cuts.vp
    h1 = (p - 1) * (f + b - w)
    v = (p - 1) * (f + b - 2 * w)
    dual = (p / 2 - 1) * (f + 2 * (b + w) - 3 * w)
    idle = np.choose(cuts.schedule.astype(np.int64), [plain, h1, v, dual])
    return np.asarray(np.maximum(idle, 0.0), dtype=np.float64)


def _send_s(shape: ModelShape, job: Job, cluster: Cluster, cuts: Cuts) -> Array:
    """Activations from stage to stage; each TP rank sends its share, or all of them.

    Exposed on the way in and out of the pipeline; and at each microbatch and chunk where the
    software does not overlap them.
    """
    size = HALF * cuts.mbs * job.seq_tokens / cuts.cp * shape.hidden
    if cluster.profile.scatter_gather:
        size = size / cuts.tp
    stride = cuts.tp * cuts.cp * cuts.dp
    once: Array = cluster.network.time_s("send", size, 2.0, stride)
    filling = 2 * (cuts.pp - 1)
    always = 2 * cuts.microbatches * cuts.vp
    times = np.where(cluster.profile.overlap_pp & (cuts.vp > 1), filling, always + filling)
    return np.where(cuts.pp > 1, times * once, 0.0)


def _data_parallel(
    shape: ModelShape, job: Job, cluster: Cluster, cuts: Cuts, kernels: Kernels, stage_s: Array
) -> tuple[Array, Array]:
    """Exposed reduction and gathering of gradients and weights, and the optimiser's update.

    The reduction runs under the last microbatch's backward pass (2/3 of a stage's time), the
    gathering under the first's forward pass (1/3), but for one layer's share that has nothing to
    hide under. ZeRO-3 gathers weights twice and reduces gradients once for every microbatch.
    """
    own = held(shape, cuts)
    later = own.last + own.last_experts > own.first + own.first_experts
    dense = np.where(later, own.last, own.first)
    experts = np.where(later, own.last_experts, own.first_experts)
    data = cuts.dp * cuts.cp
    expert_data = np.maximum(data * cuts.tp / cuts.ep, 1.0)
    per = np.where(cuts.zero >= 1, dense / data + experts / expert_data, dense + experts)
    optimizer = (ADAM_BYTES * per + 4.0 * (dense + experts)) / kernels.bandwidth
    if job.frozen:
        return np.zeros_like(dense), np.zeros_like(dense)
    network = cluster.network

    def collective(kind: str, size: float) -> Array:
        time = network.time_s(kind, size * dense, data, cuts.tp)
        apart = network.time_s(kind, size * experts, expert_data, cuts.ep)
        return time + apart

    grads = float(cluster.profile.grad_bytes)
    whole = collective("all_reduce", grads)
    reduce, gather = collective("reduce_scatter", grads), collective("all_gather", HALF)
    full, _ = busiest_layers(shape, cuts)
    tail = 1 / np.maximum(np.where(cuts.pp == 1, shape.layers, full), 1)
    if not cluster.profile.overlap_dp:
        tail = np.ones_like(tail)
    back_s, ahead_s = stage_s * 2 / 3, stage_s / 3
    reduced = np.where(cuts.zero >= 1, reduce, whole)
    after = np.maximum(reduced - back_s, tail * reduced)
    before = np.where(cuts.zero >= 1, np.maximum(gather - ahead_s, tail * gather), 0.0)
    m = cuts.microbatches
    always = m * np.maximum(gather - ahead_s, 0.0) + m * np.maximum(gather + reduce - back_s, 0.0)
    always = always + tail * (gather + reduce)
    return np.where(cuts.zero >= 3, always, after + before), optimizer


def parts(estimate: Estimate, at: int) -> dict[str, float]:
    """The seconds of one entry by part; they add up to its step."""
    known = {f.name for f in fields(Estimate)}
    return {name: float(getattr(estimate, name)[at]) for name in Estimate.PARTS if name in known}
