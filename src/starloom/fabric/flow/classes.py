"""Fewer, heavier flows: identical ones become one class, and links of one flow become its cap.

A link that a single flow crosses constrains nobody else: it leaves the path and bounds the flow.
Two flows with the same path that is left, the same bound, bytes and start are then one class of
weight 2.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from starloom.fabric.clos import Floats, Ints
from starloom.fabric.flow.routes import Routes

Words = NDArray[np.uint64]
BYTES_PER_US_OF_GBPS = 125.0
"""One gigabit a second in bytes a microsecond."""


@dataclass(frozen=True, slots=True)
class Classes:
    """What the solver works on; rates in bytes per microsecond."""

    starts: Ints
    links: Ints
    weight: Floats
    cap: Floats
    cap_order: Ints
    capacity: Floats
    left: Floats
    begin: Floats
    of_flow: Ints
    """Class of each flow."""

    def __len__(self) -> int:
        return len(self.weight)


def classes(routes: Routes, left: Floats, begin: Floats) -> Classes:
    """Group flows with `left` bytes each that start at `begin`, along `routes`."""
    n = len(left)
    lengths = np.diff(routes.starts)
    owner = np.repeat(np.arange(n, dtype=np.int32), lengths)
    rate = routes.capacity_gbps * BYTES_PER_US_OF_GBPS
    alone = np.bincount(routes.links, minlength=len(rate))[routes.links] == 1
    cap = np.full(n, np.inf)
    np.minimum.at(cap, owner[alone], rate[routes.links[alone]])
    links, owner = routes.links[~alone], owner[~alone]
    lengths = np.bincount(owner, minlength=n)
    starts = np.zeros(n + 1, dtype=np.int64)
    np.cumsum(lengths, out=starts[1:])
    used, links = _numbered(links, len(rate))
    first, of_flow, counts = _alike(starts, links, owner, cap, left, begin)
    if len(first) < n:
        links = np.concatenate([links[starts[f] : starts[f + 1]] for f in first] or [links[:0]])
        starts = np.concatenate([[0], np.cumsum(lengths[first])])
        cap, left, begin = cap[first], left[first], begin[first]
    bounded = np.flatnonzero(np.isfinite(cap))
    return Classes(
        starts=starts,
        links=links.astype(np.int32),
        weight=counts.astype(np.float64),
        cap=cap,
        cap_order=bounded[np.argsort(cap[bounded], kind="stable")],
        capacity=rate[used],
        left=left.copy(),
        begin=begin,
        of_flow=of_flow,
    )


def _numbered(links: Ints, count: int) -> tuple[Ints, Ints]:
    """Resources in use, and the links as their numbers."""
    seen = np.zeros(count, dtype=bool)
    seen[links] = True
    number = np.cumsum(seen, dtype=np.int64) - 1
    return np.flatnonzero(seen), number[links]


def _alike(
    starts: Ints, links: Ints, owner: Ints, cap: Floats, left: Floats, begin: Floats
) -> tuple[Ints, Ints, Ints]:
    """Representatives, class of each flow, and sizes.

    Flows are told apart by a 64-bit mix of path, bound, bytes and start: that any two of 10^7 which
    differ are taken for one has a chance of 3e-6.
    """
    with np.errstate(over="ignore"):
        step = (np.arange(len(links)) - starts[owner]).astype(np.uint64)
        mixed = _mix(links.astype(np.uint64) * np.uint64(8) + step)
        total = np.zeros(len(cap), dtype=np.uint64)
        np.add.at(total, owner, mixed)
        for at, value in enumerate((cap, left, begin)):
            total += _mix(value.view(np.uint64) + np.uint64(at))
    _, first, of_flow, counts = np.unique(
        total, return_index=True, return_inverse=True, return_counts=True
    )
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return first[order], place[of_flow], counts[order]


def _mix(value: Words) -> Words:
    """SplitMix64's finaliser (Steele, Lea, Flood, OOPSLA 2014)."""
    value = (value + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
