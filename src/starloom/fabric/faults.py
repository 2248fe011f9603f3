"""What breaks in a run, and when: links, switches, planes; dead, slow or grey.

Each fault becomes changes of directed links, sorted by time. A dead link loses what is sent into it
until the switch before it knows (`detect_us`) and, for a way down, until the leaves that could
choose another way know (`notify_us`): that is adaptive-routing notification, when it is short.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from starloom.fabric.base import PS_PER_US
from starloom.fabric.clos import Clos, Floats, Ints, Stage, holds
from starloom.site.base import Noun, Share

Index = Annotated[int, Field(ge=0)]
Us = Annotated[float, Field(ge=0)]


class Change(IntEnum):
    """What of a link changes."""

    CAPACITY = 0
    """Share of its rate; 0 is down. Room and thresholds of its queue, set as times, go with it."""
    LOSS = 1
    """Probability that a packet is corrupted."""
    AVOIDED = 2
    """1: switches choose other ways where they have one."""


class _Fault(Noun):
    from_us: Us = 0.0
    until_us: Us | None = None
    """For ever where not given."""
    capacity: Share = 0.0
    """Share of the rate that is left; 0 is down."""
    loss: Share = 0.0
    """Probability that a packet is corrupted; with it, `capacity` is 1 unless it is given."""
    detect_us: Us | None = None
    """Until the near switch avoids it; never where not given. Only of what is down."""
    notify_us: Us | None = None
    """Until far leaves avoid a way down that is dead; as `detect_us` where not given."""

    @model_validator(mode="after")
    def _lasts(self) -> Self:
        if self.until_us is not None and self.until_us <= self.from_us:
            raise ValueError(f"ends at {self.until_us:g} us, before it begins: raise `until_us`")
        return self

    def links(self, clos: Clos) -> list[int]:
        raise NotImplementedError

    @property
    def left(self) -> float:
        """Share of the rate while it lasts."""
        return 1.0 if self.loss and "capacity" not in self.model_fields_set else self.capacity


class LinkFault(_Fault):
    """Both directions of one link: of a host, between leaf and spine, or between spine and core."""

    kind: Literal["link"]
    plane: Index = 0
    host: Index | None = None
    leaf: Index | None = None
    pod: Index | None = None
    spine: Index | None = None
    """Within its pod."""
    core: Index | None = None
    """Within its spine's group."""

    @model_validator(mode="after")
    def _is_a_link(self) -> Self:
        given = {name for name in ("host", "leaf", "pod", "spine", "core") if self.given(name)}
        if given not in ({"host"}, {"leaf", "spine"}, {"pod", "spine", "core"}):
            raise ValueError("name one link: host, or leaf and spine, or pod, spine and core")
        return self

    def given(self, name: str) -> bool:
        return getattr(self, name) is not None

    def links(self, clos: Clos) -> list[int]:
        """Raises `BadScenario` for an end that does not exist."""
        if self.host is not None:
            return [*clos.host_links(self.host, self.plane)]
        if self.leaf is not None and self.spine is not None:
            return [*clos.leaf_links(self.leaf, self.spine, self.plane)]
        return [*clos.core_links(self.pod or 0, self.spine or 0, self.core or 0, self.plane)]


class SwitchFault(_Fault):
    """Every link of one switch."""

    kind: Literal["switch"]
    tier: Literal["leaf", "spine", "core"]
    index: Index
    """Over all pods: spine i stands in pod i // spines."""
    plane: Index = 0

    def links(self, clos: Clos) -> list[int]:
        """Raises `BadScenario` for a switch that does not exist."""
        per_pod = clos.fabric.leaves_per_pod
        found: list[int] = []
        if self.tier == "leaf":
            holds("leaf", self.index, clos.leaves)
            hosts = np.arange(clos.hosts)
            for host in hosts[clos.leaf_of(hosts) == self.index]:
                found += clos.host_links(int(host), self.plane)
            for spine in range(clos.spines):
                found += clos.leaf_links(self.index, spine, self.plane)
        elif self.tier == "spine":
            holds("spine", self.index, clos.spines * clos.fabric.pods)
            pod, spine = divmod(self.index, clos.spines)
            for leaf in range(pod * per_pod, (pod + 1) * per_pod):
                found += clos.leaf_links(leaf, spine, self.plane)
            for core in range(clos.cores):
                found += clos.core_links(pod, spine, core, self.plane)
        else:
            holds("core", self.index, clos.fabric.cores)
            spine, core = divmod(self.index, clos.cores)
            for pod in range(clos.fabric.pods):
                found += clos.core_links(pod, spine, core, self.plane)
        return found


class PlaneFault(_Fault):
    """A whole plane."""

    kind: Literal["plane"]
    plane: Index

    def links(self, clos: Clos) -> list[int]:
        """Raises `BadScenario` for a plane that does not exist."""
        first = clos.first_link(self.plane)
        return list(range(first, first + clos.links_per_plane))


Fault = Annotated[LinkFault | SwitchFault | PlaneFault, Field(discriminator="kind")]


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes of directed links in the order of time."""

    at_ps: Ints
    link: Ints
    what: Ints
    """A `Change`."""
    value: Floats

    def __len__(self) -> int:
        return len(self.at_ps)


def changes(faults: list[Fault], clos: Clos) -> Changes:
    """All that changes in a run. Raises `BadScenario` for parts that do not exist."""
    rows: list[tuple[int, int, int, float]] = []
    for fault in faults:
        begin = round(fault.from_us * PS_PER_US)
        end = None if fault.until_us is None else round(fault.until_us * PS_PER_US)
        links = fault.links(clos)
        stages = clos.stage_of(np.array(links))
        for link, stage in zip(links, stages, strict=True):
            if fault.left < 1.0:
                rows.append((begin, link, Change.CAPACITY, fault.left))
                if end is not None:
                    rows.append((end, link, Change.CAPACITY, 1.0))
            if fault.loss:
                rows.append((begin, link, Change.LOSS, fault.loss))
                if end is not None:
                    rows.append((end, link, Change.LOSS, 0.0))
            known_us = fault.detect_us
            if stage in (Stage.SPINE_DOWN, Stage.CORE_DOWN) and fault.notify_us is not None:
                known_us = fault.notify_us
            if fault.left == 0.0 and known_us is not None:
                rows.append((begin + round(known_us * PS_PER_US), link, Change.AVOIDED, 1.0))
                if end is not None:
                    rows.append((end + round(known_us * PS_PER_US), link, Change.AVOIDED, 0.0))
    rows.sort(key=lambda row: row[0])
    table = np.array(rows, dtype=np.float64).reshape(-1, 4)
    at_ps = np.array([row[0] for row in rows], dtype=np.int64)
    return Changes(at_ps, table[:, 1].astype(np.int64), table[:, 2].astype(np.int64), table[:, 3])
