"""`collective_time`: the closed form that planners price strategies with, one call for millions.

One thread, NumPy, no simulation: entries are worked off in blocks that stay in the cache.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from starloom.fabric.collectives import algorithms
from starloom.fabric.collectives.algorithms import Placed
from starloom.fabric.collectives.base import (
    LIBRARY,
    Algorithm,
    Array,
    Kind,
    Layout,
    Level,
    lay_out,
)
from starloom.fabric.collectives.errors import BadCollective
from starloom.site.catalogue import link_generations
from starloom.site.fabric import Fabric
from starloom.site.links import LinkGeneration

BLOCK = 1 << 14


@dataclass(frozen=True)
class Collectives:
    """The levels of one site, innermost first; a level's place in it is its domain id."""

    levels: tuple[Level, ...]

    def __post_init__(self) -> None:
        if not self.levels:
            raise BadCollective("a fabric without levels: give at least the supernode")
        for inner, outer in zip(self.levels, self.levels[1:], strict=False):
            if outer.chips < inner.chips:
                raise BadCollective(
                    f"level {outer.name!r} holds {outer.chips} chips, the {inner.name!r} inside it"
                    f" {inner.chips}: list levels from the supernode outwards"
                )

    @classmethod
    def of(cls, fabric: Fabric, generations: Mapping[str, LinkGeneration] | None = None) -> Self:
        """The levels of a site's fabric; by default with the catalogue's link generations.

        0 `scale_up` (where it states one, else one chip), 1 `scale_out` (a PoD, or all of two
        tiers, at the leaves' oversubscription), then `pods` (at that of the PoDs too) where there
        are several, then `sites` where it states `across`. Raises `BadCollective`.
        """
        known = link_generations() if generations is None else generations
        for name in (fabric.generation, *([fabric.scale_up.generation] if fabric.scale_up else [])):
            if name not in known:
                raise BadCollective(f"no link generation {name!r}; there are: {', '.join(known)}")
        ports = known[fabric.generation]
        links = fabric.ports_per_chip * fabric.planes * fabric.link_gbps / 8 / ports.raw_gb_per_s
        chips = max(int(fabric.hosts / fabric.ports_per_chip), 1)
        up = fabric.scale_up
        if up is None:
            levels = [Level.of("scale_up", 1, ports, links_per_chip=links)]
        else:
            inner = known[up.generation]
            levels = [Level.of("scale_up", up.chips, inner, links_per_chip=up.links_per_chip)]
        convergence = max(fabric.oversubscription, 1.0)
        add = partial(Level.of, generation=ports, links_per_chip=links)
        levels.append(add("scale_out", chips // fabric.pods, convergence=convergence))
        if fabric.pods > 1:
            convergence *= max(fabric.pod_oversubscription, 1.0)
            levels.append(add("pods", chips, convergence=convergence))
        if fabric.across is not None:
            far = fabric.across
            share = links * 8 * ports.raw_gb_per_s * chips / far.gbps
            levels.append(
                add(
                    "sites",
                    chips * far.sites,
                    convergence=max(share, 1.0),
                    distance_km=far.distance_km,
                    equipment_us=far.equipment_us,
                    group_index=far.group_index,
                )
            )
        return cls(tuple(levels))

    def domain_of(self, group: ArrayLike, stride: ArrayLike = 1) -> NDArray[np.int64]:
        """The innermost domain that holds each group, members `stride` ranks apart.

        Raises `BadCollective` where none does.
        """
        spans = np.asarray(group, dtype=np.float64) * np.asarray(stride, dtype=np.float64)
        sizes = np.array([level.chips for level in self.levels], dtype=np.float64)
        domain = np.searchsorted(sizes, spans, side="left")
        if np.any(domain >= len(sizes)):
            raise BadCollective(
                f"a group over {spans.max():g} ranks; this fabric has {sizes[-1]:g} chips"
            )
        return np.asarray(domain, dtype=np.int64)

    def collective_time(
        self,
        kind: Kind | str,
        size_bytes: ArrayLike,
        group: ArrayLike,
        domain: ArrayLike | None = None,
        *,
        stride: ArrayLike = 1,
        algorithm: Algorithm | str | None = None,
    ) -> Array:
        """Seconds of each collective, alone on the fabric; arrays are broadcast together.

        `size_bytes` as nccl-tests counts them (`base.py`), `group` members, `domain` level numbers
        (by default the innermost that holds the group), `stride` ranks between members. Of an
        allreduce, reduce-scatter, all-gather, broadcast and reduce the least of what the library
        would choose among is taken unless `algorithm` names one. A group of one, or no bytes, takes
        no time. Raises `BadCollective`, before anything large is allocated.
        """
        kind, chosen = _kind(kind), _algorithm(algorithm)
        size = np.asarray(size_bytes, dtype=np.float64)
        n, step = np.asarray(group, dtype=np.float64), np.asarray(stride, dtype=np.float64)
        where = self.domain_of(n, step) if domain is None else np.asarray(domain, dtype=np.int64)
        if size.size and not (np.isfinite(size).all() and size.min() >= 0):
            raise BadCollective(
                f"sizes from {size.min():g} to {size.max():g} bytes: give 0 or more"
            )
        shape = np.broadcast_shapes(size.shape, n.shape, where.shape, step.shape)
        sizes, groups, steps = (np.broadcast_to(one, shape).reshape(-1) for one in (size, n, step))
        domains = np.broadcast_to(where, shape).reshape(-1)
        seconds = np.empty(sizes.shape)
        for first in range(0, len(seconds), BLOCK):
            part = slice(first, first + BLOCK)
            layout = lay_out(self.levels, groups[part], domains[part], steps[part])
            seconds[part] = 1e-6 * self._time_us(kind, chosen, sizes[part], layout, domains[part])
        return seconds.reshape(shape)

    def _time_us(
        self,
        kind: Kind,
        algorithm: Algorithm | None,
        size: Array,
        layout: Layout,
        domain: NDArray[np.int64],
    ) -> Array:
        placed = Placed(self.levels, layout)
        idle = (layout.group <= 1) | (size <= 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            if kind is Kind.SEND:
                return np.where(size <= 0, 0.0, algorithms.send(placed, size, domain))
            if kind is Kind.ALL_TO_ALL:
                time = algorithms.all_to_all(placed, size)
            else:
                choices = LIBRARY if algorithm is None else (algorithm,)
                time = _least([_one(kind, choice, placed, size) for choice in choices])
                sweeps = 2 if kind is Kind.ALL_REDUCE else 1
                time = time + algorithms.ramp(placed, size, sweeps)
        if algorithm is not None and np.isinf(time[~idle]).any():
            raise BadCollective(
                f"no {algorithm} {kind} on this fabric: give `in_network_efficiency` to the link"
                " generations whose switches add, or let the algorithm be chosen"
            )
        return np.where(idle, 0.0, time)


def overlapped(seconds: ArrayLike, domain: ArrayLike) -> Array:
    """Seconds until several collectives that start together are all done; shapes (k, entries).

    Those on one level share it, so that their times add; those on different levels hide behind the
    slowest. It neglects what an outer collective takes of the levels inside it.
    """
    times = np.asarray(seconds, dtype=np.float64)
    levels = np.broadcast_to(np.asarray(domain), times.shape)
    if times.ndim != 2:
        raise BadCollective(f"times of shape {times.shape}: give (collectives, entries)")
    sums = [np.where(levels == level, times, 0.0).sum(axis=0) for level in np.unique(levels)]
    longest: Array = np.max(sums, axis=0)
    return longest


def _one(kind: Kind, algorithm: Algorithm, placed: Placed, size: Array) -> Array:
    """One algorithm's time of one kind; infinite where the kind has no such algorithm."""
    if kind in (Kind.BROADCAST, Kind.REDUCE):
        how = algorithm if algorithm in LIBRARY else Algorithm.TREE
        return algorithms.one_to_all(placed, size, how=how)
    sweeps = 2 if kind is Kind.ALL_REDUCE else 1
    match algorithm:
        case Algorithm.RING:
            return algorithms.ring(placed, size, sweeps)
        case Algorithm.HIERARCHICAL:
            return algorithms.hierarchical(placed, size, sweeps)
        case Algorithm.HALVING_DOUBLING:
            return algorithms.halving_doubling(placed, size, sweeps)
        case Algorithm.TREE if sweeps == 2:
            return algorithms.tree(placed, size)
        case Algorithm.IN_NETWORK if sweeps == 2:
            return algorithms.in_network(placed, size)
    # The last member's share must still arrive over its own port: neither saves bytes of these.
    return np.full_like(placed.n, np.inf)


def _least(times: Sequence[Array]) -> Array:
    least = times[0]
    for time in times[1:]:
        least = np.minimum(least, time)
    return least


def _kind(kind: Kind | str) -> Kind:
    try:
        return Kind(kind)
    except ValueError as error:
        raise BadCollective(f"no collective {kind!r}; there are: {', '.join(Kind)}") from error


def _algorithm(algorithm: Algorithm | str | None) -> Algorithm | None:
    if algorithm is None:
        return None
    try:
        return Algorithm(algorithm)
    except ValueError as error:
        raise BadCollective(
            f"no algorithm {algorithm!r}; there are: {', '.join(Algorithm)}"
        ) from error
