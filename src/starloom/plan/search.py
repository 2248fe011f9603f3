"""Exhaustive search: every legal cut priced, those that fit ranked, the Pareto front kept."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from starloom.plan.base import Cluster, Cuts, Job
from starloom.plan.errors import DoesNotFit
from starloom.plan.legal import Limits, space
from starloom.plan.memory import fits
from starloom.plan.train import Estimate, evaluate
from starloom.site import ModelShape

Array = NDArray[np.float64]
BLOCK = 1 << 17
"""Cuts priced at once: arrays that stay near the cache."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a search leaves: the cuts that fit, fastest first, no more than were asked for."""

    cuts: Cuts
    step_s: Array
    memory_bytes: Array
    priced: int
    """Strategies whose time and memory were computed."""
    fitting: int
    front: NDArray[np.int64]
    """Of these cuts, those that no other beats in both time and memory."""


def search(
    shape: ModelShape,
    job: Job,
    cluster: Cluster,
    chips: int,
    gbs: int,
    limits: Limits | None = None,
    *,
    keep: int = 1000,
    told: Callable[[int, int], None] = lambda _done, _all: None,
) -> Found:
    """Price the whole legal space. `told` hears how many are done of how many.

    Raises `IllegalCut` where there is no cut, `DoesNotFit` where none fits.
    """
    every = space(shape, job, chips, gbs, limits or Limits(tp_most=cluster.chips))
    n = len(every)
    step, need = np.empty(n), np.empty(n)
    fit = np.empty(n, dtype=bool)
    for first in range(0, n, BLOCK):
        part = np.arange(first, min(first + BLOCK, n))
        estimate = evaluate(shape, job, cluster, every.take(part))
        step[part], need[part] = estimate.step_s, estimate.memory.needed
        fit[part] = fits(estimate.memory, cluster.chip)
        told(int(part[-1]) + 1, n)
    if not fit.any():
        least = float(need.min()) / 2**30
        raise DoesNotFit(
            f"none of {n:,} cuts fits {cluster.chip.memory_gib:g} GiB: the smallest needs"
            f" {least:,.1f} GiB, {least - cluster.chip.memory_gib:,.1f} too many; use more chips"
            f" ({-(-chips * least // cluster.chip.memory_gib):.0f} by proportion), or chips with"
            " more memory"
        )
    good = np.flatnonzero(fit)
    order = good[np.lexsort((need[good], step[good]))]
    front = pareto(need[order])
    kept = np.union1d(np.arange(min(keep, len(order))), front)
    place = np.searchsorted(kept, front)
    chosen = order[kept]
    return Found(every.take(chosen), step[chosen], need[chosen], n, len(good), place)


def pareto(second: Array) -> NDArray[np.int64]:
    """Indices of the entries that none before them beats: entries ascend in the other measure."""
    least = np.minimum.accumulate(second)
    new = np.r_[True, second[1:] < least[:-1]] if len(second) else np.zeros(0, dtype=bool)
    return np.flatnonzero(new)


def best(
    shape: ModelShape, job: Job, cluster: Cluster, found: Found, at: int = 0
) -> tuple[Cuts, Estimate]:
    """One of the cuts that a search found, with all its parts."""
    cut = found.cuts.take(np.array([at]))
    return cut, evaluate(shape, job, cluster, cut)
