"""Closed forms of the algorithms, over arrays of groups.

Every form has a latency and bytes / rate, per protocol regime where a library has several; times
are in microseconds and rates in bytes per microsecond (1 GB/s is 1,000). What is pipelined in
slices (ring, tree, in-switch) hides steps behind transfers: the two combine as the root of their
squares, which is a choice of ours between their sum (no overlap) and the larger (full overlap);
what goes step by step (hierarchical, halving-doubling) adds them. Sources: ring, tree and regimes
as in NCCL's tuner (NVIDIA/nccl @5067397, src/graph/tuning.cc: base and hop latencies, the factors
0.5, 0.92, 1/3.8, 7/9 of LL and LL128, 0.92 of trees); recursive halving and doubling as in Thakur,
Rabenseifner, Gropp, "Optimization of collective communication operations in MPICH", IJHPCA 2005;
in-switch reduction moves S(n+1)/n instead of 2S(n-1)/n per chip, a gain of 2(n-1)/(n+1).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from starloom.fabric.collectives.base import Array, Layout, Level

RING_BASE_US = (6.6, 14.0, 8.4)
TREE_BASE_US = (6.8, 14.0, 8.4)
RING_SHARE = (0.5, 0.92, 1.0)
TREE_SHARE = (1 / 3.8, 7 / 9, 1.0)
TREE_EFFICIENCY = 0.92
MIB = 2.0**20
SIMPLE = 2


class Placed:
    """A layout with what the forms ask of it; levels that no group uses are skipped."""

    def __init__(self, levels: Sequence[Level], layout: Layout) -> None:
        self.levels = levels
        self.n = layout.group
        self.counts = layout.counts
        self.used = [at for at, count in enumerate(self.counts) if np.any(count > 1)]
        self.driven = self._driven()

    def _driven(self) -> list[Array]:
        """Per level: the chips whose ports of that level a library drives from one unit below."""
        driven: list[Array] = [np.ones_like(self.n)]
        reached = np.ones_like(self.n)
        for at, count in enumerate(self.counts[:-1]):
            rails = self.levels[at].generation.rails
            reached = reached * (count if rails is None else np.minimum(count, rails))
            driven.append(reached)
        return driven

    def rate(self, at: int) -> Array:
        """Bytes/us that one unit below level `at` reaches over its driven ports."""
        return 1e3 * self.levels[at].gb_per_s * self.driven[at]

    def narrowest(self, weights: dict[int, float] | None = None) -> Array:
        """The least rate of the levels in use."""
        least = np.full_like(self.n, np.inf)
        for at in self.used:
            rate = self.rate(at) * (1.0 if weights is None else weights[at])
            least = np.where(self.counts[at] > 1, np.minimum(least, rate), least)
        return least

    def ring_step_us(self, regime: int) -> Array:
        """Mean latency of a ring's steps: of its n edges, those that cross each level."""
        total = np.zeros_like(self.n)
        above = np.zeros_like(self.n)
        units = np.ones_like(self.n)
        for at in reversed(self.used):
            units = units * self.counts[at]
            edges = np.where(self.counts[at] > 1, units - above, 0.0)
            above = above + edges
            hop = self.levels[at].hop_us(self.levels[at].generation.ring_hop)[regime]
            total = total + edges * hop
        return total / self.n

    def tree_depth_us(self, regime: int, *, chain: bool) -> Array:
        """One way up a tree: log2 levels of hops; inside a supernode a chain where `chain`."""
        total = np.zeros_like(self.n)
        for at in self.used:
            hop = self.levels[at].hop_us(self.levels[at].generation.tree_hop)[regime]
            count = self.counts[at]
            deep = count - 1 if chain and at == 0 else np.ceil(np.log2(count))
            total = total + deep * hop
        return total


def ring(placed: Placed, size: Array, sweeps: int) -> Array:
    """A ring over all members; `sweeps` is 2 of an allreduce, 1 of a reduce-scatter or all-gather.

    T = sweeps (n-1) a + sweeps (n-1)/n S / B, B the least of what the crossed levels give a unit.
    """
    steps = sweeps * (placed.n - 1)
    moved = steps / placed.n * size / placed.narrowest()
    return _least(
        [
            RING_BASE_US[regime]
            + np.hypot(steps * placed.ring_step_us(regime), moved / RING_SHARE[regime])
            for regime in range(3)
        ]
    )


def tree(placed: Placed, size: Array) -> Array:
    """An allreduce up and down a double binary tree between units, along chains inside them.

    Each port carries the buffer up and down: 2S, but S where only two units meet.
    """
    least = np.full_like(placed.n, np.inf)
    for at in placed.used:
        share = np.where((placed.counts[at] == 2) & (at > 0), 1.0, 2.0)
        rate = np.where(placed.counts[at] > 1, TREE_EFFICIENCY * placed.rate(at) / share, np.inf)
        least = np.minimum(least, rate)
    return _least(
        [
            TREE_BASE_US[regime]
            + np.hypot(
                2 * placed.tree_depth_us(regime, chain=True), size / (least * TREE_SHARE[regime])
            )
            for regime in range(3)
        ]
    )


def in_network(placed: Placed, size: Array) -> Array:
    """An allreduce in the supernode's switches, and over a tree or the switches between supernodes.

    Inside: S (n+1)/n over the efficiency that the switches keep. Between: a tree over the driven
    ports (2S, S between two), or S where the outer level's switches reduce too. The stages are
    pipelined, so the slowest counts. Infinite where the innermost level in use cannot reduce.
    """
    never = np.full_like(placed.n, np.inf)
    if not placed.used:
        return never
    time, latency = np.zeros_like(placed.n), np.zeros_like(placed.n)
    possible = np.zeros(placed.n.shape, dtype=bool)
    crossing = np.zeros(placed.n.shape, dtype=bool)
    for at in reversed(placed.used):
        generation, count = placed.levels[at].generation, placed.counts[at]
        here = count > 1
        keeps = generation.in_network_efficiency
        if at == 0:
            if keeps is None:
                possible &= ~here
                break
            staged = np.where(crossing, TREE_EFFICIENCY, 1.0)
            moved = size * (count + 1) / count / (keeps * staged * placed.rate(0))
            possible |= here
            latency = latency + np.where(here, generation.in_network_us, 0.0)
        elif keeps is not None:
            moved = size / (keeps * placed.rate(at))
            possible |= here & (placed.counts[0] == 1)
            latency = latency + np.where(here, generation.in_network_us, 0.0)
        else:
            moved = size * np.where(count == 2, 1.0, 2.0) / placed.rate(at)
            hop = placed.levels[at].hop_us(generation.tree_hop)[SIMPLE]
            latency = latency + 2 * np.ceil(np.log2(count)) * hop
        crossing |= here
        time = np.where(here, np.maximum(time, moved), time)
    return np.where(possible, TREE_BASE_US[SIMPLE] + np.hypot(latency, time), never)


def hierarchical(placed: Placed, size: Array, sweeps: int) -> Array:
    """Reduce-scatter inside, the same between units on a share of the buffer, all-gather inside.

    Every chip uses its own port to the next level; the levels follow one another.
    """
    best = []
    for regime in range(3):
        time = np.full_like(placed.n, RING_BASE_US[regime])
        inside = np.ones_like(placed.n)
        for at in placed.used:
            count = placed.counts[at]
            hop = placed.levels[at].hop_us(placed.levels[at].generation.ring_hop)[regime]
            steps = sweeps * (count - 1)
            rate = 1e3 * placed.levels[at].gb_per_s * RING_SHARE[regime]
            time = time + steps * hop + steps / count * (size / inside) / rate
            inside = inside * count
        best.append(time)
    return _least(best)


def halving_doubling(placed: Placed, size: Array, sweeps: int) -> Array:
    """Recursive halving, then doubling: log2 n steps a sweep, the bytes of `hierarchical`.

    Members beyond a power of two are folded in before and out after: 2 steps and 2 S more.
    """
    best = []
    for regime in range(3):
        time = np.full_like(placed.n, RING_BASE_US[regime])
        inside = np.ones_like(placed.n)
        for at in placed.used:
            count = placed.counts[at]
            hop = placed.levels[at].hop_us(placed.levels[at].generation.tree_hop)[regime]
            rate = 1e3 * placed.levels[at].gb_per_s * RING_SHARE[regime]
            depth = np.floor(np.log2(count))
            folded = np.where(2.0**depth == count, 0.0, sweeps * (hop + size / inside / rate))
            bytes_here = sweeps * (count - 1) / count * size / inside
            time = time + sweeps * depth * hop + bytes_here / rate + folded
            inside = inside * count
        best.append(time)
    return _least(best)


def one_to_all(placed: Placed, size: Array, *, how: str) -> Array:
    """A broadcast, or a reduce: the buffer passes every member once, pipelined: S / B.

    `ring` a chain of n-1 steps, `tree` log2 steps at a tree's efficiency, `in_network` a multicast.
    """
    if how == "in_network":
        able = [placed.levels[at].generation.in_network_efficiency for at in placed.used]
        if not able or None in able:
            return np.full_like(placed.n, np.inf)
        fixed = sum(placed.levels[at].generation.in_network_us for at in placed.used)
        keeps = {at: share or 1.0 for at, share in zip(placed.used, able, strict=True)}
        return TREE_BASE_US[SIMPLE] + fixed + size / placed.narrowest(keeps)
    bases, shares = (RING_BASE_US, RING_SHARE) if how == "ring" else (TREE_BASE_US, TREE_SHARE)
    keeps_here = 1.0 if how == "ring" else TREE_EFFICIENCY
    times = []
    for regime in range(3):
        deep = (
            (placed.n - 1) * placed.ring_step_us(regime)
            if how == "ring"
            else placed.tree_depth_us(regime, chain=True)
        )
        rate = placed.narrowest() * shares[regime] * keeps_here
        times.append(bases[regime] + np.hypot(deep, size / rate))
    return _least(times)


def all_to_all(placed: Placed, size: Array) -> Array:
    """Every member sends S/n to each: the level with most to carry decides, the others hide behind.

    Of S, the share (n - members in one unit)/n leaves the unit over the chip's own port there. The
    fixed cost and the efficiencies are fitted to DeepEP's dispatch and combine.
    """
    time, fixed = np.zeros_like(placed.n), np.zeros_like(placed.n)
    inside = np.ones_like(placed.n)
    for at in placed.used:
        level = placed.levels[at]
        here = placed.counts[at] > 1
        outer = inside * placed.counts[at]
        # Level 0 carries its own pairs only; a level above all that leaves the unit.
        leaves = (outer - inside) / placed.n if at == 0 else (placed.n - inside) / placed.n
        rate = 1e3 * level.gb_per_s * level.generation.all_to_all_efficiency
        time = np.where(here, np.maximum(time, leaves * size / rate), time)
        fixed = np.where(here, level.generation.all_to_all_us + level.distance_us, fixed)
        inside = outer
    return time + fixed


def send(placed: Placed, size: Array, at: NDArray[np.int64]) -> Array:
    """One member to another at the level `at` (a domain id per entry)."""
    time = np.zeros_like(placed.n)
    for number, level in enumerate(placed.levels):
        hops = level.hop_us(level.generation.ring_hop)
        rate = 1e3 * level.gb_per_s
        here = _least(
            [
                RING_BASE_US[regime] + hops[regime] + size / (rate * RING_SHARE[regime])
                for regime in range(3)
            ]
        )
        time = np.where(at == number, here, time)
    return time


def ramp(placed: Placed, size: Array, sweeps: int) -> Array:
    """What a collective loses before it runs at full rate; half of it is paid at `ramp_half_mib`.

    Fitted, not explained: launch + step per ring step of the innermost level's generation.
    """
    generation = placed.levels[0].generation
    most = (
        sweeps / 2 * generation.ramp_launch_us + sweeps * (placed.n - 1) * generation.ramp_step_us
    )
    half = generation.ramp_half_mib * MIB
    return most * size / (size + half) if half else np.where(size > 0, most, 0.0)


def _least(times: Sequence[Array]) -> Array:
    least = times[0]
    for time in times[1:]:
        least = np.minimum(least, time)
    return least
