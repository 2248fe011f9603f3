"""How much a larger scale-up domain gives: the strategy searched again at every size.

Comparing at equal EP overstates the gain (a small domain would not choose that EP), so each size
gets its own best cut; the parts of its step then say where the gain comes from.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from starloom.plan.base import Cluster, Cuts, Job
from starloom.plan.legal import Limits
from starloom.plan.network import FabricNetwork
from starloom.plan.profiles import Profile
from starloom.plan.search import search
from starloom.plan.train import Estimate, evaluate, parts
from starloom.site import ModelShape, Supernode, catalogue


@dataclass(frozen=True, slots=True)
class Size:
    """One size of the scale-up domain under its own best cut."""

    chips: int
    cut: dict[str, float | str]
    tokens_per_s_chip: float
    parts_s: dict[str, float]
    priced: int


def cluster_of(supernode: Supernode, profile: Profile, chips: int | None = None) -> Cluster:
    """A cluster of catalogue supernodes, of another size of the domain where one is given."""
    size = supernode.chips if chips is None else chips
    chip = catalogue.chips()[supernode.chip]
    return Cluster(chip, profile, FabricNetwork(supernode, size), size)


def study(
    shape: ModelShape,
    job: Job,
    supernode: Supernode,
    profile: Profile,
    chips: int,
    gbs: int,
    sizes: Sequence[int],
) -> list[Size]:
    """The best cut of `chips` chips at each size, all else equal.

    TP stays within 8 chips at every size, so that what changes is the reach of EP, CP and DP.
    Raises `IllegalCut` or `DoesNotFit` as `search` does.
    """
    found = []
    for size in sizes:
        cluster = cluster_of(supernode, profile, min(size, chips))
        limits = Limits(tp_most=min(size, 8), cp_most=1, schedules=(0,), zeros=(1,))
        result = search(shape, job, cluster, chips, gbs, limits, keep=1)
        cut, estimate = _first(shape, job, cluster, result.cuts)
        found.append(
            Size(
                size,
                cut.row(0),
                float(estimate.tokens_per_s_chip[0]),
                parts(estimate, 0),
                result.priced,
            )
        )
    return found


def _first(shape: ModelShape, job: Job, cluster: Cluster, cuts: Cuts) -> tuple[Cuts, Estimate]:
    cut = cuts.take(np.array([0]))
    return cut, evaluate(shape, job, cluster, cut)
