"""Which links each flow takes: one drawn way (ECMP), or whole bundles as trunks (sprayed).

A sprayed flow uses every way up at once, so that the links between a leaf and its spines act as one
*trunk*: a million hosts need thousands of trunks beside their own links. Resources are numbered

    links of the Clos            0 .. links - 1           (ECMP only)
or  host up, host down, leaf up, leaf down, pod up, pod down   (sprayed, all planes together)
"""

from dataclasses import dataclass

import numpy as np

from starloom.fabric.base import Flows
from starloom.fabric.clos import Clos, Floats, Ints, Stage

SPRAYED = frozenset({"spray", "reps", "bitmap", "mixed", "adaptive"})
"""Balancings that send each packet its own way. `ecmp` and `flowlet` keep to one: RDMA leaves no
gaps for flowlets to change in."""


@dataclass(frozen=True, slots=True)
class Routes:
    """Paths in CSR form over numbered resources."""

    starts: Ints
    links: Ints
    """Resource numbers."""
    capacity_gbps: Floats
    """By resource."""
    widths: tuple[int, ...] = ()
    """Of trunks: Clos links that one resource of each stage stands for; empty for drawn ways."""

    def link_bytes(self, clos: Clos, moved: Floats) -> Floats:
        """Bytes by Clos link, where flow f moved `moved[f]` bytes; even within a trunk."""
        each = np.repeat(moved, np.diff(self.starts))
        count = len(self.capacity_gbps)
        by_resource = np.bincount(self.links, weights=each, minlength=count).astype(np.float64)
        if not self.widths:
            return by_resource
        counts = [
            count // width for count, width in zip(clos.stage_counts, self.widths, strict=True)
        ]
        per_link = np.repeat(by_resource, np.repeat(self.widths, counts))
        shared = np.repeat(np.array(self.widths), clos.stage_counts) * clos.planes
        return np.tile(per_link / shared, clos.planes)


def _csr(table: Ints) -> tuple[Ints, Ints]:
    """From (n, hops) with -1 for none."""
    used = table >= 0
    starts = np.zeros(len(table) + 1, dtype=np.int64)
    np.cumsum(used.sum(axis=1), out=starts[1:])
    return starts, table[used].astype(np.int32)


def drawn(
    clos: Clos, flows: Flows, rng: np.random.Generator, capacity: Floats, avoided: Ints
) -> Routes:
    """One way per flow, as a hash draws it; ways over `avoided` links are drawn again.

    `capacity` is each link's share of its rate, by Clos link id. A flow that finds no other way in
    64 draws keeps the last one.
    """
    src, dst = flows.src, flows.dst

    def draw(count: int) -> tuple[Ints, Ints, Ints]:
        spine = rng.integers(0, max(clos.spines, 1), count)
        core = rng.integers(0, max(clos.cores, 1), count)
        return spine, core, rng.integers(0, clos.planes, count)

    table = clos.paths(src, dst, *draw(len(src)))
    bad = np.zeros(clos.links + 1, dtype=bool)
    bad[avoided] = True
    for _ in range(64 if len(avoided) else 0):
        again = np.flatnonzero(bad[table].any(axis=1))
        if not len(again):
            break
        table[again] = clos.paths(src[again], dst[again], *draw(len(again)))
    starts, links = _csr(table)
    return Routes(starts, links, clos.gbps() * capacity)


def sprayed(clos: Clos, flows: Flows, capacity: Floats) -> Routes:
    """Every flow over all ways: its own links, and one trunk per stage and leaf or pod."""
    hosts, leaves, pods = clos.hosts, clos.leaves, clos.fabric.pods
    starts = np.cumsum([0, hosts, hosts, leaves, leaves, pods, pods])
    src_leaf, dst_leaf = clos.leaf_of(flows.src), clos.leaf_of(flows.dst)
    src_pod, dst_pod = clos.pod_of(flows.src), clos.pod_of(flows.dst)
    table = np.full((len(flows), 6), -1, dtype=np.int64)
    leaves_leaf, leaves_pod = src_leaf != dst_leaf, src_pod != dst_pod
    table[:, 0] = flows.src
    table[:, 1] = np.where(leaves_leaf, starts[2] + src_leaf, -1)
    table[:, 2] = np.where(leaves_pod, starts[4] + src_pod, -1)
    table[:, 3] = np.where(leaves_pod, starts[5] + dst_pod, -1)
    table[:, 4] = np.where(leaves_leaf, starts[3] + dst_leaf, -1)
    table[:, 5] = starts[1] + flows.dst
    wide = max(clos.spines, 1)
    widths = (1, 1, wide, wide, wide * max(clos.cores, 1), wide * max(clos.cores, 1))
    share = capacity.reshape(clos.planes, -1)
    rates = []
    for width, stage in zip(widths, Stage, strict=True):
        first, count = clos.stage_starts[stage], clos.stage_counts[stage]
        part = share[:, first : first + count].reshape(clos.planes, count // width, width)
        rates.append(clos.stage_gbps[stage] * part.sum(axis=(0, 2)))
    flat_starts, flat_links = _csr(table)
    return Routes(flat_starts, flat_links, np.concatenate(rates), widths)
