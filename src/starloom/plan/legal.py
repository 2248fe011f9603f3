"""Which cuts can be: every constraint by name, all of the space, and the nearest legal choice."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from starloom.plan.base import Cuts, Job
from starloom.plan.errors import BadPlan, IllegalCut
from starloom.site import ModelShape

Array = NDArray[np.float64]
MICROBATCHES = (1, 2, 4, 8, 16, 32)
RECOMPUTES = (0.0, 1.0, 1.5, 2.0)
"""None, selective, selective with half of the layers in full, full."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds the space beside the model: by default the whole of it."""

    tp_most: int
    """The supernode: TP beyond it would put two all-reduces a layer on the scale-out network."""
    pp_most: int = 128
    cp_most: int = 64
    vp_most: int = 16
    microbatches: tuple[int, ...] = MICROBATCHES
    zeros: tuple[int, ...] = (1, 2, 3)
    recomputes: tuple[float, ...] = RECOMPUTES
    schedules: tuple[int, ...] = (0,)


def divisors(n: int) -> list[int]:
    """All divisors of n, ascending."""
    small = [d for d in range(1, int(n**0.5) + 1) if n % d == 0]
    return small + [n // d for d in reversed(small) if d * d != n]


def problems(
    shape: ModelShape, job: Job, cuts: Cuts, limits: Limits
) -> dict[str, NDArray[np.bool_]]:
    """Per constraint, which cuts break it."""
    moe = shape.moe
    m = cuts.microbatches
    ranks = cuts.tp * cuts.cp * cuts.dp
    found = {
        "TP divides the heads": shape.heads % cuts.tp != 0,
        "TP divides the KV heads or is a multiple of them": (
            (shape.kv_heads % cuts.tp != 0) & (cuts.tp % shape.kv_heads != 0)
        ),
        "TP stays in the supernode": cuts.tp > limits.tp_most,
        "stages times chunks are no more than layers": cuts.pp * cuts.vp > shape.layers + 2,
        "CP divides the sequence in two": job.seq_tokens % (2 * cuts.cp * cuts.tp) != 0,
        "the batch divides over DP and microbatches": (m < 1) | (m != np.floor(m)),
        "interleaving needs microbatches in multiples of the stages": (
            (cuts.vp > 1) & ((cuts.pp == 1) | (np.mod(m, cuts.pp) != 0))
        ),
        "DualPipe needs two microbatches a stage and an even number of stages": (
            (cuts.schedule == 3) & ((m < 2 * cuts.pp) | (np.mod(cuts.pp, 2) != 0) | (cuts.vp > 1))
        ),
        "zero-bubble schedules are not interleaved": (
            (cuts.schedule > 0) & ((cuts.vp > 1) | (cuts.pp == 1))
        ),
        "ZeRO-2 and -3 need one pipeline stage": (cuts.zero >= 2) & (cuts.pp > 1),
        "ZeRO shares out over more than one chip": (cuts.zero >= 2) & (cuts.dp * cuts.cp == 1),
        "full recomputation in part needs layers": np.zeros(len(cuts), dtype=bool),
    }
    if moe is None:
        found["EP needs experts"] = cuts.ep > 1
    else:
        found["EP divides the experts"] = np.mod(moe.experts, cuts.ep) != 0
        found["EP divides the ranks of a stage"] = np.mod(ranks, cuts.ep) != 0
        found["EP covers TP"] = (
            np.mod(np.maximum(cuts.ep, cuts.tp), np.minimum(cuts.ep, cuts.tp)) != 0
        )
    return {name: np.asarray(broken) for name, broken in found.items()}


def legal(shape: ModelShape, job: Job, cuts: Cuts, limits: Limits) -> NDArray[np.bool_]:
    """Which cuts break no constraint."""
    fine = np.ones(len(cuts), dtype=bool)
    for broken in problems(shape, job, cuts, limits).values():
        fine &= ~broken
    return fine


def space(shape: ModelShape, job: Job, chips: int, gbs: int, limits: Limits) -> Cuts:
    """Every legal cut of `shape` over `chips`; `BadPlan` for no chips, `IllegalCut` for no cut.

    Axes are combined in the order of how much they exclude, so that no large illegal product is
    made.
    """
    if chips < 1 or gbs < 1:
        raise BadPlan(f"{chips} chips and a batch of {gbs}: both are 1 or more")
    rows = []
    experts = divisors(shape.moe.experts) if shape.moe is not None else [1]
    for tp in divisors(chips):
        if tp > limits.tp_most or shape.heads % tp:
            continue
        if shape.kv_heads % tp and tp % shape.kv_heads:
            continue
        for pp in divisors(chips // tp):
            if pp > limits.pp_most or pp > shape.layers:
                continue
            for cp in divisors(chips // tp // pp):
                if cp > limits.cp_most or job.seq_tokens % (2 * cp * tp):
                    continue
                dp = chips // (tp * pp * cp)
                if gbs % dp:
                    continue
                for mbs in limits.microbatches:
                    if gbs // dp % mbs:
                        continue
                    m = gbs // dp // mbs
                    rows += [
                        (tp, pp, vp, dp, cp, ep, mbs)
                        for vp in _chunks(shape.layers, pp, m, limits)
                        for ep in experts
                        if tp * cp * dp % ep == 0 and max(ep, tp) % min(ep, tp) == 0
                    ]
    if not rows:
        raise IllegalCut(
            "the batch divides over DP and microbatches",
            f"no cut of {chips} chips takes a batch of {gbs} sequences",
            f"try a batch of {_nearest_multiple(gbs, chips)}, or fewer chips",
        )
    base = np.array(rows, dtype=np.float64).T
    rest = np.array(
        [
            (zero, again, schedule)
            for zero in limits.zeros
            for again in limits.recomputes
            for schedule in limits.schedules
        ]
    ).T
    n, k = base.shape[1], rest.shape[1]
    one = [np.repeat(axis, k) for axis in base]
    other = [np.tile(axis, n).astype(np.float64) for axis in rest]
    cuts = Cuts(
        tp=one[0],
        pp=one[1],
        vp=one[2],
        dp=one[3],
        cp=one[4],
        ep=one[5],
        mbs=one[6],
        gbs=np.full(n * k, float(gbs)),
        zero=other[0],
        recompute=other[1],
        schedule=other[2],
    )
    return cuts.take(legal(shape, job, cuts, limits))


def _chunks(layers: int, pp: int, microbatches: int, limits: Limits) -> Sequence[int]:
    """Interleavings worth a look: those that leave no more than two places of a chunk empty."""
    if pp == 1 or microbatches % pp:
        return (1,)
    found = []
    for vp in range(1, min(limits.vp_most, -(-layers // pp)) + 1):
        spare = -layers % (pp * vp)
        if vp == 1 or spare <= 2:
            found.append(vp)
    return found


def _nearest_multiple(value: int, of: int) -> int:
    return max(of, round(value / of) * of)


def check(shape: ModelShape, job: Job, cuts: Cuts, limits: Limits) -> None:
    """Raise `IllegalCut` for the first constraint that a cut breaks: how far, what is legal."""
    broken = [name for name, bad in problems(shape, job, cuts, limits).items() if bad[0]]
    if not broken:
        return
    tp, pp, vp, dp, ep = (int(a[0]) for a in (cuts.tp, cuts.pp, cuts.vp, cuts.dp, cuts.ep))
    name = broken[0]
    m = float(cuts.microbatches[0])
    per = int(cuts.gbs[0])
    explain = {
        "TP divides the heads": (
            f"{shape.heads} heads over {tp} leave {shape.heads % tp}",
            f"nearest legal: tp {_nearest(divisors(shape.heads), tp)}",
        ),
        "TP divides the KV heads or is a multiple of them": (
            f"{shape.kv_heads} KV heads over {tp}",
            f"nearest legal: tp {_nearest(divisors(shape.heads), tp)}",
        ),
        "TP stays in the supernode": (
            f"tp {tp} is {tp - limits.tp_most} over the {limits.tp_most} chips of a supernode",
            f"nearest legal: tp {_most(shape.heads, limits.tp_most)}",
        ),
        "stages times chunks are no more than layers": (
            f"{pp} x {vp} = {pp * vp} for {shape.layers} layers (and embedding and head)",
            f"nearest legal: vp {max((shape.layers + 2) // pp, 1)}"
            f" or pp {(shape.layers + 2) // vp}",
        ),
        "CP divides the sequence in two": (
            f"a sequence of {job.seq_tokens} over 2 x cp {int(cuts.cp[0])} x tp {tp}",
            "make the sequence a multiple of 2 cp tp",
        ),
        "the batch divides over DP and microbatches": (
            f"{per} sequences over dp {dp} x mbs {int(cuts.mbs[0])} are {m:g} microbatches",
            f"nearest legal batch: {_nearest_multiple(per, dp * int(cuts.mbs[0]))}",
        ),
        "interleaving needs microbatches in multiples of the stages": (
            f"{m:g} microbatches over {pp} stages",
            "set vp 1, or a batch that makes microbatches a multiple of pp",
        ),
        "EP divides the experts": (
            f"{shape.moe.experts if shape.moe else 0} experts over ep {ep}",
            f"nearest legal: ep {_nearest(divisors(shape.moe.experts if shape.moe else 1), ep)}",
        ),
        "EP divides the ranks of a stage": (
            f"ep {ep} of tp x cp x dp = {int((cuts.tp * cuts.cp * cuts.dp)[0])} ranks",
            f"nearest legal: ep {_nearest(divisors(int((cuts.tp * cuts.cp * cuts.dp)[0])), ep)}",
        ),
        "EP needs experts": (f"ep {ep} for a model without experts", "set ep 1"),
    }
    what, fix = explain.get(name, ("this cut does not hold it", "change one of the two"))
    raise IllegalCut(name, what, fix)


def _most(of: int, bound: int) -> int:
    return max(d for d in divisors(of) if d <= bound)


def _nearest(choices: Sequence[int], wanted: int) -> int:
    return min(choices, key=lambda one: (abs(one - wanted), one))
