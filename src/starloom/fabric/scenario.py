"""The scenario: a fabric, traffic, faults and seeds in one file, which either core can run.

It names a site that has a fabric, or states a fabric of its own. All is checked before any memory
is taken; problems carry their line and their fix.
"""

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

import numpy as np
from pydantic import Field, ValidationError, model_validator

from starloom.fabric import traffic as patterns
from starloom.fabric.base import Flows
from starloom.fabric.clos import Clos
from starloom.fabric.errors import FabricError, TooLarge
from starloom.fabric.faults import Changes, Fault, changes
from starloom.fabric.traffic import MAX_FLOWS, Traffic
from starloom.site import BadNames, Fabric, Site, SiteError
from starloom.site.base import Name, Noun, Positive, Share
from starloom.site.errors import Loc
from starloom.site.files import Document, explained

Congestion = Literal["nscc", "rccc", "dcqcn", "swift", "hpcc", "encc", "pfc"]
Balancing = Literal["ecmp", "flowlet", "spray", "reps", "bitmap", "mixed", "adaptive"]
Bdp = Annotated[float, Field(gt=0, le=100)]


class Transport(Noun):
    """Packets, acknowledgements and queues. Defaults are those of the UET reference simulator."""

    payload_bytes: Annotated[int, Field(ge=64, le=65_536)] = 4086
    """Of a full packet; a flow is rounded up to whole packets."""
    header_bytes: Annotated[int, Field(ge=0, le=256)] = 64
    ack_bytes: Annotated[int, Field(ge=1, le=256)] = 64
    """Of acknowledgements, credits and trimmed packets."""
    ack_every_bytes: Annotated[int, Field(ge=0)] = 16_384
    """A receiver answers after so many bytes, at a mark, and when it is asked; 0: every packet."""
    reliability: Literal["selective", "go_back_n"] = "selective"
    full_queue: Literal["trim", "drop", "pause"] = "trim"
    """What a queue does when it is full: cut to headers, drop, or stop the sender (PFC)."""
    queue_bdp: Bdp = 1.0
    """Bytes of a queue in bandwidth-delay products of the longest way."""
    ecn_low_bdp: Bdp = 0.2
    ecn_high_bdp: Bdp = 0.8
    ecn_max_probability: Share = 1.0
    """Of a mark just below the upper threshold; above it every packet is marked."""
    xoff_bytes: Annotated[int, Field(ge=1)] = 120 * 4064
    """PFC: pause what comes in by one link when so much of it waits; resume below `xon_bytes`."""
    xon_bytes: Annotated[int, Field(ge=0)] = 100 * 4064

    @property
    def wire_bytes(self) -> int:
        return self.payload_bytes + self.header_bytes

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.ecn_low_bdp > self.ecn_high_bdp:
            raise ValueError("ecn_low_bdp is above ecn_high_bdp: exchange them")
        if self.full_queue == "pause" and self.xon_bytes >= self.xoff_bytes:
            raise ValueError("xon_bytes is not below xoff_bytes: PFC would never settle")
        return self


class Scenario(Noun):
    """One run to make. `Scenario.load` reads it from a file; `base` is that file's folder."""

    name: Name
    base: Path = Path()
    site: str | None = None
    """A site file that has a `fabric`, relative to this one."""
    fabric: Fabric | None = None
    traffic: list[Traffic] = Field(min_length=1)
    transport: Transport = Transport()
    congestion: Congestion = "nscc"
    congestion_options: dict[str, float] = {}
    """Parameters of the congestion control that differ from its defaults."""
    balancing: Balancing = "spray"
    entropies: Annotated[int, Field(ge=1, le=65_536)] = 64
    """Values for switches to hash that a sender varies, where its balancing varies any."""
    faults: list[Fault] = []
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default=[0], min_length=1)
    """One run each; a seed draws traffic, hashes and marks."""
    until_us: Positive = 1_000_000.0
    """Simulated time at which a run ends, finished or not."""

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read and check a scenario file. Raises `SiteError` with all problems, lines and fixes."""
        path = Path(path)
        document = Document.read(path)
        if "base" in document.data:
            document.refuse([(("base",), "unknown field", "remove it")])
        data: dict[str, Any] = {**document.data, "base": path.resolve().parent}
        named = data.get("site")
        if isinstance(named, str) and "fabric" not in data:
            data["fabric"] = _fabric_of(document, path.resolve().parent / named)
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            document.refuse([_plain(*problem) for problem in explained(error, cls)])

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.fabric is None:
            what = "no fabric: nothing connects the hosts"
            raise BadNames([(("fabric",), what, "state `fabric`, or name a `site` that has one")])
        if self.entropies & (self.entropies - 1):
            what = f"{self.entropies} is no power of two"
            raise BadNames([(("entropies",), what, "give 1, 2, 4, ... 65536")])
        problems = [*self._of_traffic(), *self._of_faults()]
        if problems:
            raise BadNames(problems)
        return self

    def _of_traffic(self) -> list[tuple[Loc, str, str]]:
        hosts = self.clos.hosts
        found: list[tuple[Loc, str, str]] = []
        for at, part in enumerate(self.traffic):
            for end in ("src", "dst", "receiver"):
                host = getattr(part, end, None)
                if host is not None and host >= hosts:
                    what = f"host {host} does not exist: there are {hosts}, counted from 0"
                    found.append((("traffic", at, end), what, f"give 0 to {hosts - 1}"))
            asked = getattr(part, "hosts", None)
            if asked is not None and not 2 <= asked <= hosts:
                what = f"{asked} hosts of the fabric's {hosts}"
                found.append((("traffic", at, "hosts"), what, f"give 2 to {hosts}"))
            if isinstance(part, patterns.Incast) and part.senders >= hosts:
                what = f"{part.senders} senders and one receiver among {hosts} hosts"
                found.append((("traffic", at, "senders"), what, f"give at most {hosts - 1}"))
            if isinstance(part, patterns.Lone) and part.src == part.dst:
                what = "goes from a host to itself"
                found.append((("traffic", at, "dst"), what, "give another destination"))
        if not found and self.flow_count > MAX_FLOWS:
            most = max(range(len(self.traffic)), key=lambda at: self.traffic[at].count(hosts))
            what = f"{self.flow_count:,} flows are more than a run may have ({MAX_FLOWS:,})"
            found.append((("traffic", most), what, "use fewer hosts, or a permutation"))
        return found

    def _of_faults(self) -> list[tuple[Loc, str, str]]:
        found: list[tuple[Loc, str, str]] = []
        for at, fault in enumerate(self.faults):
            try:
                fault.links(self.clos)
            except FabricError as error:
                found.append((("faults", at), str(error), "name a part of this fabric"))
        return found

    @cached_property
    def clos(self) -> Clos:
        return Clos(cast(Fabric, self.fabric))

    @property
    def flow_count(self) -> int:
        """Flows of one run, without making them; those of CSV files are not counted."""
        return sum(part.count(self.clos.hosts) for part in self.traffic)

    def flows(self, seed: int) -> Flows:
        """The flows of one run. Raises `BadScenario` or `TooLarge`."""
        rng = np.random.default_rng(seed)
        parts = [part.flows(self.clos.hosts, rng, self.base) for part in self.traffic]
        flows = patterns.joined(parts)
        if len(flows) > MAX_FLOWS:
            raise TooLarge(f"{len(flows):,} flows; a run may have {MAX_FLOWS:,}: split it")
        flows.check(self.clos)
        return flows

    def changes(self) -> Changes:
        """What breaks, as changes of links in the order of time."""
        return changes(self.faults, self.clos)


def _fabric_of(document: Document, site: Path) -> Fabric | None:
    try:
        fabric = Site.load(site).fabric
    except SiteError as error:
        document.refuse([(("site",), f"cannot be used: {error}", "mend the site file")])
    if fabric is None:
        document.refuse([(("site",), f"{site} has no `fabric`", "add `fabric` to it or to this")])
    return fabric


def _plain(loc: Loc, what: str, fix: str) -> tuple[Loc, str, str]:
    """Without the union's tag, which is a part of pydantic's path: traffic, 0, lone, bytes."""
    if loc and loc[0] in ("traffic", "faults"):
        if "`engine` is unknown" in what:
            kinds = _TRAFFIC if loc[0] == "traffic" else _FAULTS
            return (*loc, "kind"), "is missing or unknown", f"one of: {', '.join(kinds)}"
        loc = tuple(step for at, step in enumerate(loc) if at != 2 or step not in _KINDS)
    return loc, what, fix


_TRAFFIC = ("permutation", "incast", "all_to_all", "lone", "listed")
_FAULTS = ("link", "switch", "plane")
_KINDS = {*_TRAFFIC, *_FAULTS}
