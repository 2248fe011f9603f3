"""Parts of networks: link generations as collectives see them, link kinds, and switches."""

from typing import Annotated, Literal

from pydantic import Field

from starloom.site.base import Count, Name, Noun, Positive, Share

NotNegative = Annotated[float, Field(ge=0)]
Verified = Literal["yes", "partial", "no"]


class Hops(Noun):
    """What one step of a collective takes beyond its bytes, by protocol regime."""

    ll_us: Positive
    """Low latency: a flag beside each 4 bytes, half the bandwidth."""
    ll128_us: Positive
    """Low latency with 120 bytes of data in each 128."""
    simple_us: Positive
    """Whole chunks and a synchronisation for each."""


class LinkGeneration(Noun):
    """One generation of links between accelerators; one set of parameters for every system."""

    name: Name
    scope: Literal["scale_up", "scale_out"]
    raw_gb_per_s: Positive
    """Line rate of one link, one direction, in 10**9 bytes."""
    effective_gb_per_s: Positive
    """What collectives reach of it: `raw` less headers, credits and control."""
    links_per_chip: Count
    """As in the product that the generation is known from; a site may state another count."""
    ring_hop: Hops
    tree_hop: Hops
    in_network_efficiency: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the effective rate that in-switch reduction keeps; none: switches do not add."""
    in_network_us: NotNegative = 0.0
    """Fixed latency of one in-switch reduction."""
    ramp_launch_us: NotNegative = 0.0
    ramp_step_us: NotNegative = 0.0
    """An allreduce over n chips loses up to launch + 2(n-1) step before it runs at full rate."""
    ramp_half_mib: NotNegative = 0.0
    """Half of that ramp is paid at this message size."""
    rails: Positive | None = None
    """Ports to the next level that a library drives at once from one domain of this generation, in
    chips' worth; none: every chip's."""
    all_to_all_efficiency: Annotated[float, Field(gt=0, le=1)] = 1.0
    all_to_all_us: NotNegative = 0.0
    """Fixed cost of one all-to-all."""
    source: str
    verified: Verified


class LinkKind(Noun):
    """A way to make one 800G port-to-port link. Powers, prices and failures are of both ends."""

    name: Name
    reach_m: Positive
    power_w: NotNegative
    price_usd: NotNegative
    fits_per_link: NotNegative
    """Failures in 10**9 hours."""
    fibres: Annotated[int, Field(ge=0)]
    optical: bool
    source: str
    verified: Verified


class Switch(Noun):
    """A switch box or chassis as bills of material count it."""

    name: Name
    ports: Count
    port_gbps: Positive
    power_w: Positive
    price_usd: Positive
    latency_ns: Positive
    source: str
    verified: Verified


class ScaleUpProtocol(Noun):
    """What is published of a scale-up protocol's efficiency and latency."""

    name: Name
    payload_bytes: Count
    header_bytes: NotNegative | None = None
    """On the wire beside the payload, without preamble and gap; none where only a share is told."""
    gap_bytes: NotNegative = 20.0
    """Preamble and inter-packet gap; 0 where the link is no Ethernet."""
    published_efficiency: Share | None = None
    switch_ns: Positive | None = None
    end_to_end_ns: Positive | None = None
    source: str
    verified: Verified


class ScaleUp(Noun):
    """The supernodes of a site, as collectives see them."""

    generation: Name
    """Of the catalogue's `link_generations`."""
    chips: Count
    """In one supernode."""
    links_per_chip: Count | None = None
    """As in the generation's own product where not given."""


class Across(Noun):
    """Data centres like this one, joined by fibre."""

    sites: Annotated[int, Field(ge=2, le=1024)]
    distance_km: NotNegative
    gbps: Positive
    """Between one site and the rest, each way."""
    equipment_us: NotNegative = 0.0
    """One way, beside the fibre: transponders, switches, forward error correction."""
    group_index: Annotated[float, Field(ge=1)] = 1.468
    """1.468 solid, about 1.0013 hollow-core."""
