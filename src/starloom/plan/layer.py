"""One transformer layer under one cut: its operators, its collectives, per microbatch and chip.

Everything here depends on (tp, cp, ep, mbs) alone, so a search prices few of these and many
strategies. Layers of the GPT-3 kind drop out and keep scores in memory (`Job.flash` false); others
are pre-norm with fused attention.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from starloom.plan.base import Cluster, Job
from starloom.plan.operators import Kernels, Op, total
from starloom.site import ModelShape

Array = NDArray[np.float64]
HALF = 2.0
"""Bytes of one activation."""


@dataclass(frozen=True, slots=True)
class Shard:
    """What one layer's price depends on."""

    tp: Array
    cp: Array
    ep: Array
    mbs: Array


@dataclass(frozen=True, slots=True)
class LayerCost:
    """Seconds of one layer (a mean over dense ones and those with experts), per microbatch."""

    attention: list[Op]
    dense: list[Op]
    experts: list[Op]
    dense_share: float
    """Of layers without experts."""
    core: Op
    """Attention proper, which selective recomputation runs again where scores are kept."""
    tp_s: Array
    """Of the forward pass, exposed; the backward pass has as much."""
    cp_s: Array
    """Of the forward pass, exposed behind attention."""
    ep_s: Array
    """Dispatch and combine of the forward pass, exposed."""

    def _sum(self, field: str) -> Array:
        share = self.dense_share
        whole = total(self.attention, field) + share * total(self.dense, field)
        return whole + (1 - share) * total(self.experts, field) if self.experts else whole

    @property
    def forward_s(self) -> Array:
        return self._sum("forward_s")

    @property
    def input_s(self) -> Array:
        return self._sum("input_s")

    @property
    def weight_s(self) -> Array:
        return self._sum("weight_s")

    @property
    def flops(self) -> Array:
        return self._sum("flops")

    @property
    def launches(self) -> float:
        """Kernels of a layer that the host issues, the mean over kinds of layers."""
        share = self.dense_share
        plain = sum(op.launches for op in [*self.attention, *self.dense])
        routed = sum(op.launches for op in [*self.attention, *self.experts])
        return share * plain + (1 - share) * routed

    @property
    def comm_s(self) -> Array:
        """Exposed communication of the forward pass."""
        return self.tp_s + self.cp_s + self.ep_s


def attended_pairs(shape: ModelShape, seq: float, *, flash: bool) -> float:
    """(query, key) pairs of one sequence, the mean over layers; all of them without `flash`."""
    if not flash:
        return seq * seq
    full = seq * (seq + 1) / 2
    if shape.window is None or not shape.window_layers:
        return full
    w = min(shape.window, seq)
    near = w * (w + 1) / 2 + (seq - w) * w
    share = shape.window_layers / shape.layers
    return share * near + (1 - share) * full


def layer_cost(shape: ModelShape, job: Job, cluster: Cluster, shard: Shard) -> LayerCost:
    """Price one layer of `shape` for every entry of `shard`."""
    kernels = Kernels(cluster.chip, cluster.profile, job.precision)
    tokens = shard.mbs * job.seq_tokens / shard.cp
    cut = tokens / shard.tp if job.sequence_parallel else tokens
    attention, core = _attention(shape, job, kernels, shard, tokens, cut)
    return LayerCost(
        attention=attention,
        dense=_mlp(shape, kernels, shard, tokens, shape.intermediate),
        experts=_experts(shape, job, kernels, shard, tokens),
        dense_share=1 - shape.moe_layers / shape.layers,
        core=core,
        tp_s=_tensor_parallel(shape, job, cluster, shard, tokens),
        cp_s=_context_parallel(shape, job, cluster, shard, core),
        ep_s=_expert_parallel(shape, cluster, shard, tokens) * (shape.moe_layers / shape.layers),
    )


def _attention(
    shape: ModelShape, job: Job, kernels: Kernels, shard: Shard, tokens: Array, cut: Array
) -> tuple[list[Op], Op]:
    h, tp = float(shape.hidden), shard.tp
    times = 1 if shape.parallel_block else 2
    residual = 7.0 if job.dropout else 6.0
    ops = [
        kernels.stream("norms", times * 4.0 * cut * h, times * 6.0 * cut * h, times),
        kernels.stream("residuals", times * residual * cut * h, times * 4.0 * cut * h, times),
    ]
    if shape.mla is not None:
        mla = shape.mla
        wide, values = mla.nope_dim + mla.rope_dim, mla.v_dim
        heads = shape.heads / tp
        queries = heads * wide
        down = mla.kv_rank + mla.rope_dim + (mla.q_rank or 0)
        ops.append(kernels.gemm("down projections", tokens, _full(tokens, down), _full(tokens, h)))
        first = _full(tokens, mla.q_rank or h)
        ops.append(kernels.gemm("query up projection", tokens, queries, first))
        ops.append(
            kernels.gemm(
                "key and value up projection",
                tokens,
                heads * (mla.nope_dim + values),
                _full(tokens, mla.kv_rank),
            )
        )
        spread = tokens * (heads * (2 * wide + values) + down)
        ops.append(
            kernels.stream("positions, latent norms", 4.0 * spread, 4.0 * spread, launches=4)
        )
        groups = heads
    else:
        wide = values = shape.head_dim
        heads = shape.heads / tp
        groups = np.maximum(shape.kv_heads / tp, 1.0)
        columns = (heads + 2 * groups) * wide
        ops.append(kernels.gemm("QKV projection", tokens, columns, _full(tokens, h)))
        if not shape.positions:
            turned = 4.0 * tokens * (heads + groups) * wide * (2 if shape.qk_norm else 1)
            ops.append(kernels.stream("positions", turned, turned, launches=1))
    pairs = shard.mbs * attended_pairs(shape, job.seq_tokens, flash=job.flash) / shard.cp
    if job.flash:
        moved = HALF * tokens * (heads * (wide + values) + groups * (wide + values))
        core = kernels.flash("attention", pairs, heads, wide, values, moved)
    else:
        core = _unfused(kernels, job, pairs, heads, wide)
    ops.append(core)
    ops.append(kernels.gemm("output projection", tokens, _full(tokens, h), heads * values))
    return ops, core


def _unfused(kernels: Kernels, job: Job, pairs: Array, heads: Array, wide: int) -> Op:
    """Scores through memory: QK', masked softmax, dropout, AV; all of each row, masked or not.

    Bytes a score: 2 written, softmax 2+2, dropout 2+2+1, 2 read; backward twice the products' and
    6 + 5 of softmax and dropout.
    """
    scores = pairs * heads
    flops = 4.0 * scores * wide
    rate = kernels.rate("bf16")
    drop = 5.0 if job.dropout else 0.0
    per_score = 8.0 + drop
    back = 8.0 + 6.0 + drop
    bandwidth = kernels.bandwidth
    product = np.maximum(flops / rate, 4.0 * scores / bandwidth)
    return Op(
        "attention through memory",
        "attention",
        flops=flops,
        bytes=per_score * scores,
        forward_s=product + (per_score - 4.0) * scores / bandwidth + 4 * kernels.launch_s,
        input_s=2 * product + (back - 8.0) * scores / bandwidth + 6 * kernels.launch_s,
        weight_s=np.zeros_like(flops),
        launches=10.0,
    )


def _mlp(
    shape: ModelShape, kernels: Kernels, shard: Shard, tokens: Array, inner: float
) -> list[Op]:
    h, width = float(shape.hidden), inner / shard.tp
    up = 2.0 if shape.gated else 1.0
    return [
        kernels.gemm("MLP up", tokens, up * width, _full(tokens, h)),
        kernels.stream(
            "MLP activation", (up + 1) * HALF * tokens * width, (2 * up + 1) * HALF * tokens * width
        ),
        kernels.gemm("MLP down", tokens, _full(tokens, h), width),
    ]


def _experts(
    shape: ModelShape, job: Job, kernels: Kernels, shard: Shard, tokens: Array
) -> list[Op]:
    """Router, permutation, grouped products, their way back, and what is shared.

    Each rank of a TP group routes its own share of the tokens; a rank holds experts/ep experts and
    gets as many token copies as it sends, times the busiest rank's share (`Job.imbalance`).
    """
    moe = shape.moe
    if moe is None:
        return []
    h = float(shape.hidden)
    own = tokens / shard.tp
    copies = own * moe.active * job.imbalance
    local = moe.experts / shard.ep
    rows = copies / local
    up = 2.0 if shape.gated else 1.0
    inner = float(moe.intermediate)
    ops = [
        kernels.stream(
            "router",
            own * (HALF * h + 12.0 * moe.experts),
            own * (2 * HALF * h + 12.0 * moe.experts),
            6,
        ),
        kernels.stream(
            "permutation and back",
            2 * HALF * h * (own + 3 * copies),
            2 * HALF * h * (own + 3 * copies),
            launches=4,
        ),
        kernels.gemm("experts up", rows, _full(rows, up * inner), _full(rows, h), groups=local),
        kernels.stream(
            "experts activation",
            (up + 1) * HALF * copies * inner,
            (2 * up + 1) * HALF * copies * inner,
        ),
        kernels.gemm("experts down", rows, _full(rows, h), _full(rows, inner), groups=local),
    ]
    if moe.shared_intermediate:
        ops += _mlp(shape, kernels, shard, tokens, moe.shared_intermediate)
    return ops


def _tensor_parallel(
    shape: ModelShape, job: Job, cluster: Cluster, shard: Shard, tokens: Array
) -> Array:
    """Two all-reduces of activations a layer, or pairs of all-gather and reduce-scatter.

    A layer with experts has one around attention, and one around what is shared.
    """
    size = HALF * tokens * shape.hidden
    network = cluster.network
    if job.sequence_parallel:
        pair = network.time_s("all_gather", size, shard.tp)
        pair = pair + network.time_s("reduce_scatter", size, shard.tp)
    else:
        pair = network.time_s("all_reduce", size, shard.tp)
    share = shape.moe_layers / shape.layers
    shared = 1.0 if shape.moe is not None and shape.moe.shared_intermediate else 0.0
    if shape.parallel_block:
        pair = pair / 2
    return pair * (2 * (1 - share) + (1 + shared) * share) * (1 - cluster.profile.tp_hidden)


def _context_parallel(
    shape: ModelShape, job: Job, cluster: Cluster, shard: Shard, core: Op
) -> Array:
    """Keys and values of all ranks, gathered behind attention: what that does not cover."""
    if shape.mla is not None:
        numbers = (
            shape.heads / shard.tp * (shape.mla.nope_dim + shape.mla.rope_dim + shape.mla.v_dim)
        )
    else:
        numbers = 2 * np.maximum(shape.kv_heads / shard.tp, 1.0) * shape.head_dim
    size = HALF * shard.mbs * job.seq_tokens * numbers
    time = cluster.network.time_s("all_gather", size, shard.cp, shard.tp)
    return np.where(shard.cp > 1, np.maximum(time - core.forward_s * (1 - 1 / shard.cp), 0.0), 0.0)


def _expert_parallel(shape: ModelShape, cluster: Cluster, shard: Shard, tokens: Array) -> Array:
    """Dispatch and combine. Of u supernodes a token's k experts lie in u (1 - (1 - 1/u)^k)."""
    moe = shape.moe
    if moe is None:
        return np.zeros_like(tokens)
    size = HALF * tokens / shard.tp * moe.active * shape.hidden
    kept: Array = np.ones_like(shard.ep)
    if cluster.profile.dedup:
        units = cluster.network.spread(shard.ep)
        hit = units * (1 - (1 - 1 / units) ** moe.active)
        if moe.node_limit is not None:
            hit = np.minimum(hit, moe.node_limit)
        kept = hit / moe.active
    once = cluster.network.all_to_all_s(size, shard.ep, kept)
    return 2 * once * (1 - cluster.profile.ep_hidden)


def _full(like: Array, value: float) -> Array:
    return np.full_like(like, value)
