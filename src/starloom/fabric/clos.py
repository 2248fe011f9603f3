"""A Clos in closed form: link ids by arithmetic, never a graph object.

A million hosts cost a few numbers. Links are directed and numbered plane by plane; within a plane
stage by stage:

    HOST_UP     host -> leaf        host
    LEAF_DOWN   leaf -> host        host
    LEAF_UP     leaf -> spine       leaf * J + j
    SPINE_DOWN  spine -> leaf       leaf * J + j
    SPINE_UP    spine -> core       (pod * J + j) * K + k
    CORE_DOWN   core -> spine       (pod * J + j) * K + k

with J spines a pod and K cores a spine group: core (j, k) has one link to spine j of every pod.
A packet that must leave its leaf takes j once, on the way up; one that must leave its pod takes k
once; the way down has no choice.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from starloom.fabric.errors import BadScenario
from starloom.site import Fabric

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

PS_PER_US = 1_000_000


class Stage(IntEnum):
    """Which step of its way a link is."""

    HOST_UP = 0
    LEAF_DOWN = 1
    LEAF_UP = 2
    SPINE_DOWN = 3
    SPINE_UP = 4
    CORE_DOWN = 5


@dataclass(frozen=True, slots=True)
class Clos:
    """The arithmetic of one fabric. Arrays in, arrays out: hosts, leaves and links are int64."""

    fabric: Fabric

    @property
    def hosts(self) -> int:
        return self.fabric.hosts

    @property
    def leaves(self) -> int:
        return self.fabric.leaves

    @property
    def spines(self) -> int:
        """Spines of a pod, which is the number of ways up from a leaf."""
        return self.fabric.spines

    @property
    def cores(self) -> int:
        """Ways up from a spine."""
        return self.fabric.cores_per_spine

    @property
    def planes(self) -> int:
        return self.fabric.planes

    @property
    def stage_counts(self) -> tuple[int, ...]:
        """Links of each stage, of one plane."""
        fabric = self.fabric
        leaf_up = fabric.leaves * fabric.spines
        spine_up = fabric.pods * fabric.spines * fabric.cores_per_spine
        return fabric.hosts, fabric.hosts, leaf_up, leaf_up, spine_up, spine_up

    @property
    def stage_starts(self) -> tuple[int, ...]:
        """The first link of each stage in plane 0; a seventh entry is the end."""
        starts = [0]
        for count in self.stage_counts:
            starts.append(starts[-1] + count)
        return tuple(starts)

    @property
    def links_per_plane(self) -> int:
        return sum(self.stage_counts)

    @property
    def links(self) -> int:
        """Directed links of all planes; ids run from 0 to this."""
        return self.links_per_plane * self.planes

    @property
    def stage_gbps(self) -> tuple[float, ...]:
        """Rate of a link of each stage."""
        fabric = self.fabric
        leaf_up = fabric.leaf_up_gbps or fabric.link_gbps
        spine_up = fabric.spine_up_gbps or leaf_up
        return fabric.link_gbps, fabric.link_gbps, leaf_up, leaf_up, spine_up, spine_up

    @property
    def stage_latency_ps(self) -> tuple[int, ...]:
        """One way over a link of each stage, with the switch that it enters."""
        fabric = self.fabric
        leaf = fabric.link_us if fabric.leaf_up_us is None else fabric.leaf_up_us
        spine = leaf if fabric.spine_up_us is None else fabric.spine_up_us
        links_us = (fabric.link_us, fabric.link_us, leaf, leaf, spine, spine)
        return tuple(
            round((us + (0 if stage is Stage.LEAF_DOWN else fabric.switch_us)) * PS_PER_US)
            for stage, us in zip(Stage, links_us, strict=True)
        )

    def stage_of(self, links: Ints) -> Ints:
        """The `Stage` of each link."""
        within = np.asarray(links, dtype=np.int64) % self.links_per_plane
        return np.searchsorted(np.array(self.stage_starts[1:]), within, side="right")

    def gbps(self) -> Floats:
        """Rate of every link, by id."""
        return np.tile(np.repeat(self.stage_gbps, self.stage_counts), self.planes)

    def latency_ps(self) -> Ints:
        """Latency of every link, by id."""
        each = np.array(self.stage_latency_ps, dtype=np.int64)
        return np.tile(np.repeat(each, self.stage_counts), self.planes)

    def leaf_of(self, hosts: Ints) -> Ints:
        """The leaf of each host; with rails, port r of every node stands on a leaf of rail r."""
        rails, ports = self.fabric.rails, self.fabric.hosts_per_leaf
        hosts = np.asarray(hosts, dtype=np.int64)
        return hosts // (ports * rails) * rails + hosts % rails

    def pod_of(self, hosts: Ints) -> Ints:
        return self.leaf_of(hosts) // self.fabric.leaves_per_pod

    def path_links(self, src: Ints, dst: Ints) -> Ints:
        """Links between two hosts, one way: 2 under one leaf, 4 in one pod, else 6."""
        same_leaf = self.leaf_of(src) == self.leaf_of(dst)
        same_pod = self.pod_of(src) == self.pod_of(dst)
        return np.where(same_leaf, 2, np.where(same_pod, 4, 6)).astype(np.int64)

    @property
    def diameter_links(self) -> int:
        return 2 * self.fabric.tiers if self.fabric.pods > 1 else 2 * min(2, self.fabric.tiers)

    def paths(self, src: Ints, dst: Ints, spine: Ints, core: Ints, plane: Ints) -> Ints:
        """The links of each way in order, shape (n, 6); -1 where a way is shorter.

        `spine` and `core` choose the way up; they are not looked at where there is no choice.
        """
        starts = self.stage_starts
        j, k = self.spines, self.cores
        src_leaf, dst_leaf = self.leaf_of(src), self.leaf_of(dst)
        src_pod = src_leaf // self.fabric.leaves_per_pod
        dst_pod = dst_leaf // self.fabric.leaves_per_pod
        leaves_leaf, leaves_pod = src_leaf != dst_leaf, src_pod != dst_pod
        out = np.full((len(src), 6), -1, dtype=np.int64)
        base = np.asarray(plane, dtype=np.int64) * self.links_per_plane
        out[:, 0] = base + starts[Stage.HOST_UP] + src
        up = base + starts[Stage.LEAF_UP] + src_leaf * j + spine
        spine_up = base + starts[Stage.SPINE_UP] + (src_pod * j + spine) * k + core
        core_down = base + starts[Stage.CORE_DOWN] + (dst_pod * j + spine) * k + core
        down = base + starts[Stage.SPINE_DOWN] + dst_leaf * j + spine
        last = base + starts[Stage.LEAF_DOWN] + dst
        out[:, 1] = np.where(leaves_leaf, up, last)
        out[:, 2] = np.where(leaves_pod, spine_up, np.where(leaves_leaf, down, -1))
        out[:, 3] = np.where(leaves_pod, core_down, np.where(leaves_leaf, last, -1))
        out[:, 4] = np.where(leaves_pod, down, -1)
        out[:, 5] = np.where(leaves_pod, last, -1)
        return out

    def leaf_links(self, leaf: int, spine: int, plane: int = 0) -> tuple[int, int]:
        """The links up and down between a leaf and a spine of its pod."""
        holds("leaf", leaf, self.leaves)
        holds("spine", spine, self.spines)
        at = self.first_link(plane) + leaf * self.spines + spine
        return at + self.stage_starts[Stage.LEAF_UP], at + self.stage_starts[Stage.SPINE_DOWN]

    def host_links(self, host: int, plane: int = 0) -> tuple[int, int]:
        """The links up and down between a host and its leaf."""
        holds("host", host, self.hosts)
        at = self.first_link(plane) + host
        return at + self.stage_starts[Stage.HOST_UP], at + self.stage_starts[Stage.LEAF_DOWN]

    def core_links(self, pod: int, spine: int, core: int, plane: int = 0) -> tuple[int, int]:
        """The links up and down between spine j of a pod and core (j, k)."""
        holds("pod", pod, self.fabric.pods)
        holds("spine", spine, self.spines)
        holds("core", core, self.cores)
        at = self.first_link(plane) + (pod * self.spines + spine) * self.cores + core
        return at + self.stage_starts[Stage.SPINE_UP], at + self.stage_starts[Stage.CORE_DOWN]

    def name(self, link: int) -> str:
        """Such as `plane 0, leaf 3 > spine 5`, for reports."""
        plane, within = divmod(link, self.links_per_plane)
        stage = Stage(int(self.stage_of(np.array([within]))[0]))
        at = within - self.stage_starts[stage]
        if stage in (Stage.HOST_UP, Stage.LEAF_DOWN):
            ends = f"host {at}", f"leaf {int(self.leaf_of(np.array([at]))[0])}"
        elif stage in (Stage.LEAF_UP, Stage.SPINE_DOWN):
            leaf, spine = divmod(at, self.spines)
            pod = leaf // self.fabric.leaves_per_pod
            ends = f"leaf {leaf}", f"spine {pod * self.spines + spine}"
        else:
            spine, core = divmod(at, self.cores)
            ends = f"spine {spine}", f"core {spine % self.spines * self.cores + core}"
        low, high = ends
        upward = stage in (Stage.HOST_UP, Stage.LEAF_UP, Stage.SPINE_UP)
        return f"plane {plane}, " + (f"{low} > {high}" if upward else f"{high} > {low}")

    def base_rtt_ps(self, wire_bytes: int, ack_bytes: int) -> int:
        """An unloaded round trip over the diameter, a packet out and an acknowledgement back.

        Store and forward at the host's rate on every link.
        """
        one_way = self.stage_latency_ps
        links = [Stage.HOST_UP, Stage.LEAF_DOWN]
        if self.diameter_links >= 4:
            links += [Stage.LEAF_UP, Stage.SPINE_DOWN]
        if self.diameter_links == 6:
            links += [Stage.SPINE_UP, Stage.CORE_DOWN]
        latency = sum(one_way[stage] for stage in links)
        byte_ps = 8000.0 / self.fabric.link_gbps
        return 2 * latency + round(len(links) * (wire_bytes + ack_bytes) * byte_ps)

    def first_link(self, plane: int) -> int:
        """Of a plane; raises `BadScenario` where there is no such plane."""
        holds("plane", plane, self.planes)
        return plane * self.links_per_plane


def holds(what: str, index: int, count: int) -> None:
    """Raises `BadScenario` for a part that does not exist."""
    if not 0 <= index < count:
        raise BadScenario(f"{what} {index} does not exist: there are {count}, counted from 0")
