"""The best way to serve a model within latency limits: cut, batch, prefill apart or not."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from starloom.plan.base import Cluster
from starloom.plan.errors import BadPlan, DoesNotFit
from starloom.plan.serving import Latency, Layouts, Server, Serving, apart, together
from starloom.site import ModelShape

Array = NDArray[np.float64]
USERS = tuple(int(2**k) for k in range(14))
RATIOS = (1, 2, 3, 4, 6, 8)


@dataclass(frozen=True, slots=True)
class Load:
    """What users ask for, and what they accept."""

    prompt_tokens: int
    output_tokens: int
    ttft_most_s: float = float("inf")
    tpot_most_s: float = float("inf")

    def __post_init__(self) -> None:
        if self.prompt_tokens < 1 or self.output_tokens < 1:
            raise BadPlan("prompts and outputs have 1 token or more")
        if not self.ttft_most_s > 0 or not self.tpot_most_s > 0:
            raise BadPlan("latency limits are above 0")


@dataclass(frozen=True, slots=True)
class Deployment:
    """One way to serve, and what comes of it."""

    mode: str
    """`together`, or `apart` for prefill and decode on their own chips."""
    tp: int
    dp: int
    ep: int
    chips: int
    prefill_replicas: int
    decode_replicas: int
    users: int
    """Requests under way."""
    ttft_s: float
    tpot_s: float
    tokens_per_s_chip: float
    usd_per_million_tokens: float


def layouts_of(shape: ModelShape, most_chips: int) -> Layouts:
    """Every layout of up to `most_chips`: attention by heads or requests, experts by EP or TP."""
    rows = []
    sizes = [2**k for k in range(int(np.log2(most_chips)) + 1)]
    for world in sizes:
        for tp in (size for size in sizes if size <= world and shape.heads % size == 0):
            dp = world // tp
            experts = shape.moe.experts if shape.moe is not None else 1
            eps = {1} if shape.moe is None else {1, world} if experts % world == 0 else {1}
            rows += [(tp, dp, world / ep, ep, 1) for ep in eps if shape.moe is not None or dp == 1]
    return Layouts(*np.array(rows, dtype=np.float64).T)


def deploy(
    shape: ModelShape,
    serving: Serving,
    cluster: Cluster,
    load: Load,
    chips: int,
    usd_per_chip_hour: float = 2.0,
    keep: int = 10,
) -> list[Deployment]:
    """The ways that give most tokens/s a chip within the limits, best first.

    Raises `DoesNotFit` where no layout of `chips` holds the weights, `BadPlan` where none meets the
    limits.
    """
    if chips < 1:
        raise BadPlan(f"{chips} chips: give 1 or more")
    base = layouts_of(shape, chips)
    probe = Server(shape, serving, cluster, base)
    holds = probe.capacity_tokens() > load.prompt_tokens + load.output_tokens
    if not holds.any():
        least = float((probe.weight_bytes() / 2**30).min())
        raise DoesNotFit(
            f"{chips} chips of {cluster.chip.memory_gib:g} GiB hold no replica: the thinnest layout"
            f" needs {least:,.0f} GiB of weights a chip; use more or fewer bits"
        )
    kept = np.flatnonzero(holds)
    found = _together(shape, serving, cluster, load, base.take(kept), usd_per_chip_hour)
    found += _apart(shape, serving, cluster, load, base.take(kept), chips, usd_per_chip_hour)
    good = [
        one for one in found if one.ttft_s <= load.ttft_most_s and one.tpot_s <= load.tpot_most_s
    ]
    if not good:
        fast = min(found, key=lambda one: _over(one, load))
        raise BadPlan(
            f"no way meets TTFT {load.ttft_most_s:g} s and TPOT {load.tpot_most_s:g} s: the nearest"
            f" gives {fast.ttft_s:.3g} s and {fast.tpot_s:.3g} s (tp {fast.tp}, dp {fast.dp},"
            f" ep {fast.ep}, {fast.users} users); allow more, or use more or faster chips"
        )
    good.sort(key=lambda one: -one.tokens_per_s_chip)
    return good[:keep]


def _over(one: Deployment, load: Load) -> float:
    """How far a way is over its limits, both added."""
    return one.tpot_s / load.tpot_most_s + one.ttft_s / load.ttft_most_s


def _together(
    shape: ModelShape, serving: Serving, cluster: Cluster, load: Load, base: Layouts, usd: float
) -> list[Deployment]:
    users = np.tile(np.array(USERS, dtype=np.float64), len(base.tp))
    many = base.take(np.repeat(np.arange(len(base.tp)), len(USERS)))
    server = Server(shape, serving, cluster, many)
    prompt, output = (np.full_like(users, t) for t in (load.prompt_tokens, load.output_tokens))
    users = users * many.dp
    latency = together(server, prompt, output, users)
    ones = np.ones_like(users)
    room = server.capacity_tokens() * many.dp >= users * (load.prompt_tokens + load.output_tokens)
    return _listed("together", many, many.chips, 0 * ones, ones, users, latency, room, usd)


def _apart(
    shape: ModelShape,
    serving: Serving,
    cluster: Cluster,
    load: Load,
    base: Layouts,
    chips: int,
    usd: float,
) -> list[Deployment]:
    """The same layout for both sides, at each ratio of prefill to decode replicas."""
    pairs = [(p, d) for p in RATIOS for d in RATIOS if np.gcd(p, d) == 1]
    n, k, u = len(base.tp), len(pairs), len(USERS)
    many = base.take(np.repeat(np.arange(n), k * u))
    ratio = np.array(pairs, dtype=np.float64)
    fillers, decoders = (np.tile(np.repeat(ratio[:, side], u), n) for side in (0, 1))
    users = np.tile(np.array(USERS, dtype=np.float64), n * k) * many.dp * decoders
    total = many.chips * (fillers + decoders)
    good = np.flatnonzero(total <= chips)
    if not len(good):
        return []
    many, fillers, decoders, users = many.take(good), fillers[good], decoders[good], users[good]
    server = Server(shape, serving, cluster, many)
    prompt, output = (np.full_like(users, t) for t in (load.prompt_tokens, load.output_tokens))
    latency = apart(server, server, prompt, output, users, fillers, decoders)
    room = server.capacity_tokens() * many.dp * decoders >= users * (
        load.prompt_tokens + load.output_tokens
    )
    return _listed("apart", many, total[good], fillers, decoders, users, latency, room, usd)


def _listed(
    mode: str,
    many: Layouts,
    chips: Array,
    fillers: Array,
    decoders: Array,
    users: Array,
    latency: Latency,
    room: NDArray[np.bool_],
    usd: float,
) -> list[Deployment]:
    columns: Sequence[Array] = (many.tp, many.dp, many.ep, chips, fillers, decoders, users)
    found = []
    for at in np.flatnonzero(room):
        tp, dp, ep, total, fill, decode, asked = (int(column[at]) for column in columns)
        rate = float(latency.tokens_per_s_chip[at])
        found.append(
            Deployment(
                mode,
                tp,
                dp,
                ep,
                total,
                fill,
                decode,
                asked,
                float(latency.ttft_s[at]),
                float(latency.tpot_s[at]),
                rate,
                1e6 * usd / 3600 / rate,
            )
        )
    return found
