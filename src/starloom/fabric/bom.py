"""Bills of material in closed form: what a Clos is made of, what it draws, costs and breaks.

Non-blocking from switches of radix k: two tiers carry k^2/2 hosts with 3/k switches and 2 links a
host, three tiers k^3/4 hosts with 5/k switches and 3 links (Al-Fares, Loukissas, Vahdat, "A
scalable, commodity data center network architecture", SIGCOMM 2008). With p planes every host has a
link into each of p copies.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from starloom.fabric.errors import BadScenario
from starloom.site import Fabric
from starloom.site.catalogue import link_kinds, switches
from starloom.site.links import LinkKind, Switch

HOURS_PER_YEAR = 8766
STAGES = ("host", "leaf", "spine")
"""Links by their lower end: host to leaf, leaf to spine, spine to core."""
LENGTH_M = {"host": 2.0, "leaf": 50.0, "spine": 300.0}
"""Assumed: hosts beside their leaf, spines in the hall, cores in another."""


def non_blocking(radix: int, tiers: int, *, planes: int = 1, link_gbps: float = 800.0) -> Fabric:
    """The largest non-blocking Clos of one radix. Raises `BadScenario` for an odd or small one.

    Splitting a port over p planes multiplies the radix: non_blocking(p * k, tiers, planes=p,
    link_gbps=rate / p) carries (p k)^2/2 hosts on two tiers.
    """
    if radix < 4 or radix % 2 or tiers not in (2, 3):
        raise BadScenario(
            f"radix {radix}, {tiers} tiers: give an even radix from 4 on, 2 or 3 tiers"
        )
    half = radix // 2
    common = {"hosts_per_leaf": half, "spines": half, "planes": planes, "link_gbps": link_gbps}
    if tiers == 2:
        return Fabric.model_validate({"hosts": radix * half, "tiers": 2, **common})
    shape = {"hosts": radix * half * half, "tiers": 3, "pods": radix, "cores_per_spine": half}
    return Fabric.model_validate({**shape, **common})


def pods_of_16k(pods: int = 64, *, link_gbps: float = 800.0) -> Fabric:
    """PoDs of 16,384 ports: 512 leaves of 32 under 32 chassis of 576 ports, 64 of them up, 8:1.

    512 ports of a chassis go down and 64 up: 16,384 against 32 x 64 = 2,048 of the same rate. 64
    PoDs are 1,048,576 ports, 7 are a site of 114,688.
    """
    shape = {"hosts": pods * 16384, "hosts_per_leaf": 32, "spines": 32, "link_gbps": link_gbps}
    if pods == 1:
        return Fabric.model_validate({**shape, "tiers": 2})
    more = {"tiers": 3, "pods": pods, "cores_per_spine": 64}
    return Fabric.model_validate({**shape, **more})


@dataclass(frozen=True, slots=True)
class Bill:
    """What a fabric is made of, over all planes."""

    hosts: int
    leaves: int
    spines: int
    cores: int
    core_boxes: int
    """Boxes that hold the cores: several small cores share one."""
    links: Mapping[str, int]
    """By stage, undirected."""
    kinds: Mapping[str, str]
    """Link kind by stage."""
    optics: int
    """Optical ends."""
    fibres: int
    power_w: float
    price_usd: float
    failures_per_year: float
    """Of links alone."""
    switch_hops: int
    """Of the longest way."""
    link_hops: int

    @property
    def devices(self) -> int:
        """Switches as the topology counts them."""
        return self.leaves + self.spines + self.cores

    @property
    def boxes(self) -> int:
        """Switches as they are bought."""
        return self.leaves + self.spines + self.core_boxes

    @property
    def link_count(self) -> int:
        return sum(self.links.values())

    def per_host(self, total: float) -> float:
        return total / self.hosts


def cheapest_kind(length_m: float, kinds: Mapping[str, LinkKind] | None = None) -> str:
    """The kind of least price that reaches so far. Raises `BadScenario` where none does."""
    known = link_kinds() if kinds is None else kinds
    able = [kind for kind in known.values() if kind.reach_m >= length_m]
    if not able:
        longest = max(kind.reach_m for kind in known.values())
        raise BadScenario(f"no link kind reaches {length_m:g} m; the longest reaches {longest:g}")
    return min(able, key=lambda kind: (kind.price_usd, kind.power_w)).name


def bill(
    fabric: Fabric,
    *,
    kinds: Mapping[str, str] | None = None,
    leaf: str = "box-64x800g",
    spine: str = "box-64x800g",
    core: str = "box-64x800g",
) -> Bill:
    """The bill of a fabric.

    `kinds` names a link kind per stage (`host`, `leaf`, `spine`), by default the cheapest that
    reaches over `LENGTH_M`. Figures of 800G links scale with the stage's rate. Raises `BadScenario`
    for parts that are not in the catalogue, that do not reach, or that have too few ports.
    """
    parts, known = switches(), link_kinds()
    for name in (leaf, spine, core):
        if name not in parts:
            raise BadScenario(f"no switch {name!r}; there are: {', '.join(parts)}")
    chosen = {stage: cheapest_kind(LENGTH_M[stage]) for stage in STAGES} | dict(kinds or {})
    for stage, name in chosen.items():
        if stage not in STAGES or name not in known:
            raise BadScenario(
                f"link {stage}: {name}: give {', '.join(STAGES)} and one of {[*known]}"
            )
        if known[name].reach_m < LENGTH_M[stage]:
            what = (
                f"{name} reaches {known[name].reach_m:g} m, {stage} links are {LENGTH_M[stage]:g}"
            )
            raise BadScenario(f"{what}: choose another kind for `{stage}`")
    planes, pods = fabric.planes, fabric.pods
    leaves, cores = fabric.leaves * planes, fabric.cores * planes
    spines = fabric.spines * pods * planes if fabric.tiers > 1 else 0
    links = {
        "host": fabric.hosts * planes,
        "leaf": fabric.leaves * fabric.spines * planes,
        "spine": spines * fabric.cores_per_spine if fabric.tiers == 3 else 0,
    }
    up_gbps = fabric.leaf_up_gbps or fabric.link_gbps
    gbps = {"host": fabric.link_gbps, "leaf": up_gbps, "spine": fabric.spine_up_gbps or up_gbps}
    down, up, top = (gbps[stage] for stage in STAGES)
    _has_room(parts[leaf], fabric.hosts_per_leaf * down + fabric.spines * up, "leaf")
    _has_room(
        parts[spine], fabric.leaves_per_pod * up + fabric.cores_per_spine * top, "spine", spines
    )
    _has_room(parts[core], pods * top, "core", cores)
    share = max(int(parts[core].ports * parts[core].port_gbps / (pods * top)), 1)
    core_boxes = ceil(cores / share)
    optical = {stage: links[stage] for stage in STAGES if known[chosen[stage]].optical}
    bought = ((leaves, parts[leaf]), (spines, parts[spine]), (core_boxes, parts[core]))

    def over_links(field: str) -> float:
        each = {stage: float(getattr(known[chosen[stage]], field)) for stage in STAGES}
        return sum(links[stage] * each[stage] * gbps[stage] / 800 for stage in STAGES)

    return Bill(
        hosts=fabric.hosts,
        leaves=leaves,
        spines=spines,
        cores=cores,
        core_boxes=core_boxes,
        links=links,
        kinds=chosen,
        optics=2 * sum(optical.values()),
        fibres=round(over_links("fibres")),
        power_w=sum(count * part.power_w for count, part in bought) + over_links("power_w"),
        price_usd=sum(count * part.price_usd for count, part in bought) + over_links("price_usd"),
        failures_per_year=over_links("fits_per_link") * HOURS_PER_YEAR / 1e9,
        switch_hops=2 * fabric.tiers - 1,
        link_hops=2 * fabric.tiers,
    )


def _has_room(part: Switch, gbps: float, where: str, count: int = 1) -> None:
    """A port of 800G may be broken out into several of less."""
    has = part.ports * part.port_gbps
    if count and gbps > has:
        what = f"a {where} needs ports of {gbps:g} Gb/s in all, {part.name} has {has:g}"
        raise BadScenario(f"{what}: choose a larger switch or fewer links")


@dataclass(frozen=True, slots=True)
class Claim:
    """A published saving beside ours."""

    what: str
    published_pct: float
    ours_pct: float

    @property
    def follows(self) -> bool:
        """Within one percentage point."""
        return abs(self.published_pct - self.ours_pct) <= 1.0


def two_tier_saving(radix: int = 64) -> list[Claim]:
    """A non-blocking Clos of two tiers against three, per host, from switches of one radix.

    The published figures are of an article on a two-tier fabric: latency -33 %, devices, optics and
    fibre -40 %. The hops of links give the first, the count of switches the second; links, optics
    and fibre fall by a third, and optics by half where hosts are on copper.
    """
    copper = {"host": "copper", "leaf": "pluggable", "spine": "pluggable"}
    optical = dict.fromkeys(STAGES, "pluggable")
    parts = {"leaf": "chassis-576x800g", "spine": "chassis-576x800g", "core": "chassis-576x800g"}

    def saved(name: str, kinds: Mapping[str, str], *, each: bool = True) -> float:
        two, three = (bill(non_blocking(radix, tiers), kinds=kinds, **parts) for tiers in (2, 3))
        values = [float(getattr(one, name)) / (one.hosts if each else 1) for one in (two, three)]
        return 100 * (values[0] / values[1] - 1)

    return [
        Claim("latency (link hops)", -33.0, saved("link_hops", optical, each=False)),
        Claim("latency (switch hops)", -33.0, saved("switch_hops", optical, each=False)),
        Claim("devices", -40.0, saved("devices", optical)),
        Claim("optics", -40.0, saved("optics", optical)),
        Claim("optics, hosts on copper", -40.0, saved("optics", copper)),
        Claim("fibre", -40.0, saved("fibres", optical)),
        Claim("links", -40.0, saved("link_count", optical)),
    ]


@dataclass(frozen=True, slots=True)
class Hops:
    """Switches on the way of one kind of traffic."""

    same_rail: float
    """Between chips of one number in two nodes, mean over all pairs."""
    any_to_any: float
    """Between any two chips of different nodes, mean over all pairs."""


def mean_switch_hops(fabric: Fabric) -> Hops:
    """How many switches traffic crosses, in closed form, of a fabric of one or two tiers.

    Rail-optimised (`rails` > 1): a leaf holds one rail of hosts_per_leaf nodes, so that one switch
    connects as many nodes for traffic of equal rank, which most collectives are; other traffic
    changes rail inside the node or crosses a spine. Balanced: a leaf holds whole nodes.
    """
    if fabric.tiers > 2:
        raise BadScenario("mean hops are stated for one or two tiers: give one PoD")
    rails, per_leaf, hosts = fabric.rails, fabric.hosts_per_leaf, fabric.hosts
    nodes = hosts // rails
    if rails == 1:
        near = (per_leaf - 1) / max(hosts - 1, 1)
        return Hops(same_rail=3 - 2 * near, any_to_any=3 - 2 * near)
    near = (per_leaf - 1) / max(nodes - 1, 1)
    return Hops(same_rail=3 - 2 * near, any_to_any=3 - 2 * near / rails)
