"""Serving: prefill and decode under a cut, first-token and per-token latency, throughput.

All arrays have one entry a configuration. A *replica* is what holds the model once: `tp` ranks
share an attention, `dp` such groups decode their own requests, and experts lie over all of them as
`moe_tp` x `ep`. MLA decodes in the latent space (absorbed): one key of kv_rank + rope_dim a token.
"""

from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from starloom.plan.base import Cluster
from starloom.plan.errors import BadPlan
from starloom.plan.operators import GEMM_BYTES, Kernels
from starloom.site import ModelShape

Array = NDArray[np.float64]
HALF = 2.0
DECODE_BANDWIDTH = 0.75
"""Share of the streaming rate that decoding attention reads its scattered blocks at: assumed."""
RESERVED_SHARE = 0.12
"""Of memory: activations, graphs, fragmentation; vLLM leaves 0.10, SGLang 0.12-0.15 by default."""
CHUNK_TOKENS = 8192
"""Prompt tokens that one step takes at the most."""


@dataclass(frozen=True, slots=True)
class Serving:
    """How a model is served."""

    weights: str = "fp8"
    """Precision of products; `GEMM_BYTES` names all."""
    experts: str | None = None
    """Of experts' products, where other."""
    kv_bytes: float = 1.0


@dataclass(frozen=True, slots=True)
class Layouts:
    """Configurations as a struct of arrays of shape (n,)."""

    tp: Array
    dp: Array
    moe_tp: Array
    ep: Array
    pp: Array

    @classmethod
    def of(
        cls,
        tp: ArrayLike = 1,
        dp: ArrayLike = 1,
        moe_tp: ArrayLike | None = None,
        ep: ArrayLike = 1,
        pp: ArrayLike = 1,
    ) -> Self:
        """Layouts that broadcast together; experts are cut over all ranks that `ep` leaves."""
        wide = np.asarray(tp, float) * np.asarray(dp, float) / np.asarray(ep, float)
        cut = wide if moe_tp is None else moe_tp
        arrays = np.broadcast_arrays(
            *(np.atleast_1d(np.asarray(a, float)) for a in (tp, dp, cut, ep, pp))
        )
        if any((one < 1).any() for one in arrays):
            raise BadPlan("a layout below 1: ep divides tp x dp, all else is 1 or more")
        return cls(*(np.ascontiguousarray(one) for one in arrays))

    @property
    def chips(self) -> Array:
        """Of one replica."""
        return self.tp * self.dp * self.pp

    def take(self, which: NDArray[np.int64] | NDArray[np.bool_]) -> Self:
        """Some of the entries."""
        return replace(self, **{f.name: getattr(self, f.name)[which] for f in fields(self)})


@dataclass(frozen=True, slots=True)
class Pass:
    """Seconds of one forward pass and its parts."""

    products_s: Array
    attention_s: Array
    experts_s: Array
    exchange_s: Array
    """All-reduces, dispatch and combine."""
    head_s: Array
    host_s: float

    @property
    def total_s(self) -> Array:
        return (
            self.products_s
            + self.attention_s
            + self.experts_s
            + self.exchange_s
            + self.head_s
            + self.host_s
        )


class Server:
    """One model on one kind of chip, served under some layouts."""

    def __init__(
        self, shape: ModelShape, serving: Serving, cluster: Cluster, layouts: Layouts
    ) -> None:
        self.shape, self.serving, self.cluster, self.layouts = shape, serving, cluster, layouts
        self._kernels = Kernels(cluster.chip, cluster.profile, serving.weights)
        self._experts = serving.experts or serving.weights
        Kernels(cluster.chip, cluster.profile, self._experts)

    def weight_bytes(self) -> Array:
        """On one chip: attention over TP, experts over all, embedding and head in bf16 over TP."""
        shape, lay = self.shape, self.layouts
        size, small = GEMM_BYTES[self.serving.weights], GEMM_BYTES[self._experts]
        table = 2.0 * shape.vocab * shape.hidden * (1 if shape.tied_embeddings else 2)
        moe_layers = float(shape.moe_layers)
        dense = (shape.layers - moe_layers) * shape.dense_weights
        experts = 0.0
        if shape.moe is not None:
            shared = shape.mlp_matrices * shape.hidden * shape.moe.shared_intermediate
            dense += moe_layers * (shape.attention_weights + shared)
            experts = moe_layers * shape.moe.experts * shape.expert_weights
        own: Array = size * dense / lay.tp + small * experts / (lay.ep * lay.moe_tp)
        return own / lay.pp + table / lay.tp

    def kv_bytes_per_token(self) -> Array:
        """Of one token of full context on one chip; MLA's latent stands on every TP rank."""
        shape, lay = self.shape, self.layouts
        if shape.mla is not None:
            one = shape.layers * (shape.mla.kv_rank + shape.mla.rope_dim) * np.ones_like(lay.tp)
        else:
            one = 2.0 * shape.layers * np.maximum(shape.kv_heads / lay.tp, 1.0) * shape.head_dim
        return one * self.serving.kv_bytes / lay.pp

    def capacity_tokens(self) -> Array:
        """Tokens of KV that one attention group holds; 0 or less where the weights do not fit."""
        room = self.cluster.chip.memory_gib * 2**30 * (1 - RESERVED_SHARE) - self.weight_bytes()
        return np.asarray(room / self.kv_bytes_per_token())

    def forward(self, tokens: Array, pairs: Array, held: Array, sequences: Array) -> Pass:
        """One pass of `tokens` new tokens a group: `pairs` attended, `held` KV tokens read.

        `sequences` get a next token each. Decoding and prefilling differ in `pairs` and `held`
        alone.
        """
        lay, shape = self.layouts, self.shape
        kernels = self._kernels
        layers = float(shape.layers)
        products = layers * self._projections(tokens)
        attention = layers * self._attention(tokens, pairs, held, sequences)
        share = shape.moe_layers / layers
        products = products + layers * (1 - share) * self._mlp(tokens, float(shape.intermediate))
        experts = np.zeros_like(tokens)
        if shape.moe is not None:
            experts = layers * share * self._routed(tokens)
            shared = float(shape.moe.shared_intermediate)
            if shared:
                products = products + layers * share * self._mlp(tokens, shared)
        streams = layers * (8.0 * tokens * shape.hidden / kernels.bandwidth + 3 * kernels.launch_s)
        head = Kernels(self.cluster.chip, self.cluster.profile).gemm_s(
            sequences, shape.vocab / lay.tp, _like(tokens, shape.hidden)
        )
        exchange = layers * self._exchange(tokens, share)
        hops = (lay.pp - 1) * self.cluster.network.time_s(
            "send", HALF * tokens * shape.hidden, 2.0, lay.tp * lay.dp
        )
        host = 1e-6 * self.cluster.profile.host_us
        return Pass(products + streams, attention, experts, exchange + hops, head, host)

    def _projections(self, tokens: Array) -> Array:
        shape, tp, gemm = self.shape, self.layouts.tp, self._kernels.gemm_s
        h = _like(tokens, shape.hidden)
        if shape.mla is None:
            columns = (shape.heads / tp + 2 * np.maximum(shape.kv_heads / tp, 1.0)) * shape.head_dim
            return gemm(tokens, columns, h) + gemm(tokens, h, shape.heads / tp * shape.head_dim)
        mla, heads = shape.mla, shape.heads / tp
        wide = heads * (mla.nope_dim + mla.rope_dim)
        first = mla.kv_rank + mla.rope_dim + (mla.q_rank or 0)
        time = gemm(tokens, _like(tokens, first), h) + gemm(tokens, h, heads * mla.v_dim)
        time = time + gemm(tokens, wide, _like(tokens, mla.q_rank or shape.hidden))
        inner = heads * (mla.nope_dim + mla.v_dim)
        return time + gemm(tokens, inner, _like(tokens, mla.kv_rank), "bf16")

    def _attention(self, tokens: Array, pairs: Array, held: Array, sequences: Array) -> Array:
        """The longer of its FLOPs and the KV that it reads; prefill keeps keys and values."""
        shape, tp = self.shape, self.layouts.tp
        kernels = self._kernels
        heads = shape.heads / tp
        decoding = tokens <= sequences
        if shape.mla is not None:
            mla = shape.mla
            latent = 2 * mla.kv_rank + mla.rope_dim
            plain = mla.nope_dim + mla.rope_dim + mla.v_dim
            flops = 2.0 * pairs * heads * np.where(decoding, latent, plain)
            moved = self.serving.kv_bytes * held * (mla.kv_rank + mla.rope_dim)
        else:
            flops = 4.0 * pairs * heads * shape.head_dim
            groups = np.maximum(shape.kv_heads / tp, 1.0)
            moved = self.serving.kv_bytes * held * 2 * groups * shape.head_dim
        rate = 1e12 * self.cluster.chip.bf16_tflops * self.cluster.profile.attention
        read = moved / (kernels.bandwidth * DECODE_BANDWIDTH)
        return np.where(pairs > 0, np.maximum(flops / rate, read) + kernels.launch_s, 0.0)

    def _mlp(self, tokens: Array, inner: float) -> Array:
        shape, tp, gemm = self.shape, self.layouts.tp, self._kernels.gemm_s
        h, up = _like(tokens, shape.hidden), 2.0 if shape.gated else 1.0
        return gemm(tokens, up * inner / tp, h) + gemm(tokens, h, inner / tp)

    def _routed(self, tokens: Array) -> Array:
        """Router, and the products of the experts that any token of the whole replica goes to.

        Of E experts n tokens with k choices each touch E (1 - (1 - k/E)^n), evenly drawn.
        """
        moe, lay, kernels = self.shape.moe, self.layouts, self._kernels
        assert moe is not None  # noqa: S101 - the caller saw it
        everyone = tokens * lay.dp
        touched = moe.experts * (1 - (1 - moe.active / moe.experts) ** np.maximum(everyone, 0))
        local = np.maximum(touched / lay.ep, 1e-9)
        rows = everyone * moe.active / lay.ep / local
        up = 2.0 if self.shape.gated else 1.0
        h, inner = _like(tokens, self.shape.hidden), moe.intermediate / lay.moe_tp
        time = kernels.gemm_s(rows, up * inner, h, self._experts, groups=local)
        time = time + kernels.gemm_s(rows, h, inner, self._experts, groups=local)
        copies = everyone * moe.active / lay.ep
        moved = 4 * HALF * h * copies / lay.moe_tp
        return time + moved / kernels.bandwidth + 4 * kernels.launch_s

    def _exchange(self, tokens: Array, share: float) -> Array:
        """A layer's: all-reduce after attention and MLP; over DP groups dispatch and combine."""
        lay, network, moe = self.layouts, self.cluster.network, self.shape.moe
        size = HALF * tokens * self.shape.hidden
        reduce = network.time_s("all_reduce", size, lay.tp)
        if moe is None:
            return 2 * reduce
        ranks = lay.tp * lay.dp
        sent = size * np.minimum(moe.active, lay.ep) / lay.tp
        apart = network.all_to_all_s(sent, lay.ep, np.ones_like(lay.ep))
        gathered = network.time_s("all_gather", size * lay.dp, ranks)
        gathered = gathered + network.time_s("reduce_scatter", size * lay.dp, ranks)
        moved = np.where(lay.ep > 1, np.minimum(2 * apart, gathered), gathered)
        routed = np.where(lay.dp > 1, moved, reduce)
        return reduce + (1 - share) * reduce + share * routed

    def decode(self, sequences: Array, context: Array) -> Pass:
        """One step of `sequences` a group, each with `context` tokens in its cache."""
        seen = self._seen(context)
        return self.forward(sequences, sequences * seen, sequences * seen, sequences)

    def prefill(self, prompt: Array, prompts: Array | float = 1.0) -> Pass:
        """A pass over whole prompts, `prompts` of them side by side."""
        n = prompt * prompts
        half = np.where(self._window_share() > 0, self._seen(prompt) / 2, prompt / 2)
        return self.forward(n, n * half, n, _like(n, 1.0) * prompts)

    def mixed_s(
        self, sequences: Array, context: Array, prompt_tokens: Array, prompt: Array
    ) -> Array:
        """A step of `sequences` decoding and `prompt_tokens` of prompts as long as `prompt`."""
        seen = self._seen(context)
        pairs = sequences * seen + prompt_tokens * prompt / 2
        both = self.forward(sequences + prompt_tokens, np.zeros_like(pairs), pairs * 0, sequences)
        decoding = self._attention(sequences, sequences * seen, sequences * seen, sequences)
        filling = self._attention(
            prompt_tokens, prompt_tokens * prompt / 2, prompt_tokens, np.zeros_like(sequences)
        )
        return both.total_s + self.shape.layers * (
            decoding + np.where(prompt_tokens > 0, filling, 0.0)
        )

    def _window_share(self) -> float:
        return self.shape.window_layers / self.shape.layers if self.shape.window else 0.0

    def _seen(self, context: Array) -> Array:
        """Tokens that a query attends to, the mean over layers."""
        share = self._window_share()
        near = np.minimum(context, self.shape.window or np.inf)
        return (1 - share) * context + share * near


@dataclass(frozen=True, slots=True)
class Latency:
    """What a user of a loaded server sees, and what the server gives."""

    ttft_s: Array
    tpot_s: Array
    running: Array
    """Requests that decode in one attention group; the rest waits where KV is short."""
    tokens_per_s_chip: Array
    """Output tokens."""


def together(server: Server, prompt: Array, output: Array, concurrency: Array) -> Latency:
    """Prefill and decode on the same chips, prompts in chunks between decode steps.

    Each request brings `prompt` tokens for `output` steps of its group, so a step takes n decodes
    and n prompt / output tokens of prompts. TTFT: what a request costs at all, the own prompt in
    chunks, each with a decode step, and the prompts of the wave that came together (`burst`).
    """
    lay, profile = server.layouts, server.cluster.profile
    wanted = np.maximum(concurrency / lay.dp, 1.0)
    room = np.maximum(server.capacity_tokens(), prompt + output)
    n = np.minimum(wanted, np.maximum(np.floor(room / (prompt + output / 2)), 1.0))
    context = prompt + output / 2
    tpot = server.mixed_s(n, context, n * prompt / np.maximum(output, 1), prompt)
    own = server.prefill(np.minimum(prompt, CHUNK_TOKENS)).total_s
    own = own * np.maximum(prompt / CHUNK_TOKENS, 1.0)
    step = server.decode(n, context).total_s
    wave = profile.burst * (wanted - 1) * own
    late = np.where(wanted > n, (wanted - n) / n * output * tpot, 0.0)
    ttft = own + step * np.ceil(prompt / CHUNK_TOKENS) + wave + late + 1e-6 * profile.first_us
    rate = n * lay.dp / tpot / lay.chips
    return Latency(ttft, tpot, n, rate)


def apart(
    filling: Server,
    decoding: Server,
    prompt: Array,
    output: Array,
    concurrency: Array,
    fillers: Array,
    decoders: Array,
) -> Latency:
    """Prefill and decode on their own chips, `fillers` and `decoders` replicas of them.

    `fillers` 0: as many as decoding keeps busy.

    TTFT: the wave of prompts over the filling groups, the KV's way across the scale-out network,
    and one decode step. Requests that wait for prefill do not decode: of `concurrency` those decode
    that Little's law leaves.
    """
    profile = decoding.cluster.profile
    groups = decoding.layouts.dp * decoders
    own = filling.prefill(np.minimum(prompt, CHUNK_TOKENS)).total_s
    own = own * np.maximum(prompt / CHUNK_TOKENS, 1.0)
    lanes = filling.layouts.dp * np.asarray(fillers, float)
    room = np.maximum(np.floor(decoding.capacity_tokens() / (prompt + output / 2)), 1.0)
    n = np.minimum(np.maximum(concurrency / groups, 1.0), room)
    tpot = decoding.decode(n, prompt + output / 2).total_s
    wanted = n * groups / (output * tpot) * own
    lanes = np.where(lanes > 0, lanes, np.ceil(wanted))
    fillers = np.where(np.asarray(fillers) > 0, fillers, lanes / filling.layouts.dp)
    # Prefill bounds the rate where it is the slower: then decoding groups run emptier.
    rate = np.minimum(n * groups / (output * tpot), lanes / own)
    n = np.minimum(np.maximum(rate * output * tpot / groups, 1.0), n)
    tpot = decoding.decode(n, prompt + output / 2).total_s
    waiting = np.maximum(concurrency - n * groups, 0.0)
    size = prompt * decoding.kv_bytes_per_token()
    moved = filling.cluster.network.time_s("send", size, 2.0, float(1 << 20))
    wave = profile.burst * np.maximum(concurrency / lanes - 1, 0.0) * own
    ttft = (
        own
        + moved
        + tpot
        + 1e-6 * profile.first_us
        + np.maximum(wave, waiting / np.maximum(rate, 1e-30) - own)
    )
    chips = filling.layouts.chips * fillers + decoding.layouts.chips * decoders
    return Latency(ttft, tpot, n, rate * output / chips)


def _like(like: Array, value: float) -> Array:
    return np.full_like(like, float(value))
