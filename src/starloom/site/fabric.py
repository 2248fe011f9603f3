"""The scale-out fabric of a site: a Clos of one to three tiers, stated in numbers, never drawn."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from starloom.site.base import Count, Name, Noun, Positive
from starloom.site.links import Across, ScaleUp

MAX_HOSTS = 1 << 24


class Fabric(Noun):
    """A folded Clos. A *host* is one network port pair: a NIC with a link into every plane.

    One tier is one switch a plane. Two tiers: every leaf has a link to each of `spines`. Three
    tiers: hosts stand in `pods`; every leaf has a link to each of its pod's `spines`, and spine j
    of every pod has a link to each of the `cores_per_spine` core switches of group j.
    """

    hosts: Annotated[int, Field(ge=2, le=MAX_HOSTS)]
    tiers: Literal[1, 2, 3] = 2
    hosts_per_leaf: Count
    spines: Annotated[int, Field(ge=0)] = 0
    """Spines (of a pod); links up from each leaf."""
    pods: Count = 1
    cores_per_spine: Annotated[int, Field(ge=0)] = 0
    planes: Annotated[int, Field(ge=1, le=16)] = 1
    """Copies of the whole Clos; each host has one link into each."""
    rails: Count = 1
    """Ports of a node, numbered in a row: port r of every node stands on the leaves of rail r."""
    link_gbps: Positive = 400.0
    """Of one link from a host into one plane, each way."""
    leaf_up_gbps: Positive | None = None
    """Of one link from leaf to spine; as the host's where not given."""
    spine_up_gbps: Positive | None = None
    """Of one link from spine to core; as the leaf's where not given."""
    link_us: Annotated[float, Field(ge=0)] = 1.0
    """One way, of every link for which no other is given."""
    leaf_up_us: Annotated[float, Field(ge=0)] | None = None
    spine_up_us: Annotated[float, Field(ge=0)] | None = None
    switch_us: Annotated[float, Field(ge=0)] = 0.0
    """From the last bit in to the queue of the way out."""
    radix: Count | None = None
    """Ports of a switch of `link_gbps`, where the parts are known: nothing may need more."""
    generation: Name = "ib400"
    """Of the catalogue's `link_generations`: what collectives reach of a port."""
    ports_per_chip: Positive = 1.0
    """Hosts (ports) of this fabric to one chip; 0.5 where two chips share one."""
    scale_up: ScaleUp | None = None
    """The supernodes whose chips the hosts belong to; none: every chip stands alone."""
    across: Across | None = None
    """Other data centres like this one."""

    @property
    def leaves(self) -> int:
        """Over all pods, of one plane."""
        return self.hosts // self.hosts_per_leaf

    @property
    def leaves_per_pod(self) -> int:
        return self.leaves // self.pods

    @property
    def cores(self) -> int:
        """Core switches of one plane."""
        return self.spines * self.cores_per_spine if self.tiers == 3 else 0

    @property
    def oversubscription(self) -> float:
        """Host capacity over leaf uplink capacity; 1 is non-blocking."""
        if self.tiers == 1:
            return 1.0
        up = self.leaf_up_gbps or self.link_gbps
        return self.hosts_per_leaf * self.link_gbps / (self.spines * up)

    @property
    def pod_oversubscription(self) -> float:
        """A pod's host capacity over its capacity to the cores."""
        if self.tiers < 3:
            return 1.0
        up = self.spine_up_gbps or self.leaf_up_gbps or self.link_gbps
        down = self.hosts // self.pods * self.link_gbps
        return down / (self.spines * self.cores_per_spine * up)

    @model_validator(mode="after")
    def _can_be_built(self) -> Self:
        self._divides()
        self._is_connected()
        if self.radix is not None:
            self._fits(self.radix)
        return self

    def _divides(self) -> None:
        if self.hosts % self.hosts_per_leaf:
            rest = f"{self.hosts} hosts do not fill leaves of {self.hosts_per_leaf}"
            raise ValueError(f"{rest}: make `hosts` a multiple of `hosts_per_leaf`")
        if self.leaves % self.pods:
            rest = f"{self.leaves} leaves do not fill {self.pods} pods evenly"
            raise ValueError(f"{rest}: make `hosts` a multiple of pods x hosts_per_leaf")
        if self.leaves_per_pod % self.rails:
            rest = f"{self.leaves_per_pod} leaves a pod do not split over {self.rails} rails"
            raise ValueError(f"{rest}: each rail needs leaves of its own")

    def _is_connected(self) -> None:
        if self.tiers == 1 and (self.leaves > 1 or self.spines or self.pods > 1):
            what = f"{self.leaves} leaves and no spine over them are disconnected"
            raise ValueError(f"{what}: a fabric of one tier is one switch; set `tiers: 2`")
        if self.tiers > 1 and not self.spines:
            raise ValueError(f"{self.leaves} leaves and no spines are disconnected: set `spines`")
        if self.tiers < 3 and self.pods > 1:
            raise ValueError(f"{self.pods} pods without cores are disconnected: set `tiers: 3`")
        if self.tiers == 3 and not self.cores_per_spine:
            raise ValueError("three tiers and no core switches: set `cores_per_spine`")
        if self.tiers < 3 and self.cores_per_spine:
            raise ValueError("cores belong to a fabric of `tiers: 3`")

    def _fits(self, radix: int) -> None:
        """Ports are counted in units of the host's rate: one of twice the rate takes two."""
        leaf_up = (self.leaf_up_gbps or self.link_gbps) / self.link_gbps
        spine_up = (self.spine_up_gbps or self.leaf_up_gbps or self.link_gbps) / self.link_gbps
        needs = {"a leaf": self.hosts_per_leaf + self.spines * leaf_up}
        if self.tiers > 1:
            needs["a spine"] = self.leaves_per_pod * leaf_up + self.cores_per_spine * spine_up
        if self.tiers == 3:
            needs["a core"] = self.pods * spine_up
        for part, ports in needs.items():
            if ports > radix:
                what = f"{part} needs {ports:g} ports, and the radix is {radix}"
                raise ValueError(f"{what}: use fewer links on it, or a larger switch")
