"""What a collective is asked with: its kind, a fabric's levels, where a group lies in them.

A fabric is a stack of levels, innermost first: 0 is the supernode (scale-up), 1 the PoD
(scale-out), and above it what the site has: PoDs joined at a convergence, data centres joined by
fibre. The number of a level is its *domain id*. A group of n members lies in a domain as counts per
level, whose product is n: 64 chips in 8 nodes of 8 are counts (8, 8).

Bytes follow nccl-tests: of an allreduce, reduce-scatter or all-gather the whole buffer S (input or
output, whichever is larger), of an all-to-all all that one member sends (its own share included),
of a broadcast or a send the message.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from starloom.fabric.collectives.errors import BadCollective
from starloom.optics import SMF_GROUP_INDEX, fibre_us
from starloom.site.links import Hops, LinkGeneration

Array = NDArray[np.float64]


class Kind(StrEnum):
    """What moves."""

    ALL_REDUCE = "all_reduce"
    REDUCE_SCATTER = "reduce_scatter"
    ALL_GATHER = "all_gather"
    BROADCAST = "broadcast"
    REDUCE = "reduce"
    ALL_TO_ALL = "all_to_all"
    SEND = "send"


class Algorithm(StrEnum):
    """How it moves. `LIBRARY` are those that NCCL chooses among."""

    RING = "ring"
    TREE = "tree"
    IN_NETWORK = "in_network"
    HIERARCHICAL = "hierarchical"
    HALVING_DOUBLING = "halving_doubling"


LIBRARY = (Algorithm.RING, Algorithm.TREE, Algorithm.IN_NETWORK)


@dataclass(frozen=True, slots=True)
class Level:
    """One level of a fabric, as a collective sees it."""

    name: str
    chips: int
    """Chips in one unit of this level: a supernode's, a PoD's, a site's."""
    generation: LinkGeneration
    gb_per_s: float
    """What collectives reach per chip and direction over this level's links, in 10**9 bytes."""
    distance_us: float = 0.0
    """One way, beside the generation's own hop: fibre and equipment between sites."""

    @classmethod
    def of(
        cls,
        name: str,
        chips: int,
        generation: LinkGeneration,
        *,
        links_per_chip: float | None = None,
        convergence: float = 1.0,
        distance_km: float = 0.0,
        equipment_us: float = 0.0,
        group_index: float = SMF_GROUP_INDEX,
    ) -> Self:
        """A level out of the catalogue. `convergence` 8 leaves each chip an eighth of its links.

        Raises `BadCollective` for sizes that are no sizes, `BadLink` for an impossible fibre.
        """
        links = generation.links_per_chip if links_per_chip is None else links_per_chip
        if chips < 1 or not links > 0 or not convergence > 0 or not equipment_us >= 0:
            raise BadCollective(
                f"level {name!r}: chips {chips}, links_per_chip {links}, convergence {convergence},"
                f" equipment_us {equipment_us}: chips >= 1, links and convergence > 0 are needed"
            )
        return cls(
            name=name,
            chips=chips,
            generation=generation,
            gb_per_s=links * generation.effective_gb_per_s / convergence,
            distance_us=fibre_us(distance_km, group_index) + equipment_us,
        )

    def hop_us(self, hops: Hops) -> tuple[float, float, float]:
        """One step over this level in each protocol regime: LL, LL128, Simple."""
        far = self.distance_us
        return hops.ll_us + far, hops.ll128_us + far, hops.simple_us + far

    def with_generation(self, generation: LinkGeneration) -> Self:
        """The same level with other parameters of its links, as a fit tries them."""
        share = self.gb_per_s / self.generation.effective_gb_per_s
        rate = share * generation.effective_gb_per_s
        return replace(self, generation=generation, gb_per_s=rate)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where each group lies: all arrays have the shape (entries,)."""

    group: Array
    counts: list[Array]
    """Per level: in how many units of the level below the members of one unit lie."""

    @property
    def levels(self) -> int:
        return len(self.counts)

    def within(self, level: int) -> Array:
        """Members in one unit below `level`: 1 for level 0."""
        inside: Array = np.ones_like(self.group)
        for count in self.counts[:level]:
            inside = inside * count
        return inside


def lay_out(
    levels: Sequence[Level], group: ArrayLike, domain: ArrayLike, stride: ArrayLike = 1
) -> Layout:
    """Placed groups into levels.

    `stride` is the distance in ranks between two members (the product of the parallel dimensions
    inside), so that a supernode of 8 chips holds 8, 4, 2, 1 members at stride 1, 2, 4, 8 or more.
    Members fill units as far as they hold them, evenly. A group that would fit one unit below its
    domain was put into that domain on purpose and is spread over as many of its units as there are.

    Raises `BadCollective` for a group below 1 or larger than its domain, an unknown domain, or a
    stride below 1.
    """
    n = np.asarray(group, dtype=np.float64)
    top = np.asarray(domain, dtype=np.int64)
    step = np.asarray(stride, dtype=np.float64)
    n, top, step = np.broadcast_arrays(n, top, step)
    if n.size and not n.min() >= 1:
        raise BadCollective(f"a group of {n.min():g} members: give 1 or more")
    if n.size and (top.min() < 0 or top.max() >= len(levels)):
        raise BadCollective(
            f"domain {int(top.max() if top.max() >= len(levels) else top.min())} is none of this"
            f" fabric's: 0 to {len(levels) - 1} ({', '.join(level.name for level in levels)})"
        )
    sizes = np.array([level.chips for level in levels])
    if n.size and np.any(n > sizes[top]):
        at = int(np.argmax(n > sizes[top]))
        raise BadCollective(
            f"a group of {n.flat[at]:g} in domain {top.flat[at]}, which has {sizes[top.flat[at]]}"
            " chips: give a domain further out"
        )
    if step.size and not step.min() >= 1:
        raise BadCollective(f"a stride of {step.min():g} ranks: give 1 or more")
    left = n.copy()
    counts: list[Array] = []
    for at in range(len(levels) - 1, 0, -1):
        holds = np.maximum(np.floor(levels[at - 1].chips / step), 1.0)
        units = np.ceil(left / holds)
        spread = np.minimum(left, max(levels[at].chips // levels[at - 1].chips, 1))
        count = np.where(top > at, units, np.where(units > 1, units, spread))
        count = np.where(top < at, 1.0, count)
        counts.append(count)
        left = left / count
    counts.append(left)
    return Layout(n, counts[::-1])
