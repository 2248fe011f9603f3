"""Chips, and the nodes that hold them."""

from typing import Annotated, Literal

from pydantic import Field

from starloom.site.base import Count, Name, Noun, Positive


class Chip(Noun):
    """An accelerator, or a CPU socket that computes. Peaks are dense and per chip."""

    name: Name
    fp32_tflops: Positive | None = None
    bf16_tflops: Positive
    fp8_tflops: Positive | None = None
    fp4_tflops: Positive | None = None
    int8_tops: Positive | None = None
    cores: Count | None = None
    """Streaming multiprocessors, compute units or AI cores: what tiles of a matrix are dealt to."""
    memory_gib: Positive
    memory_gb_per_s: Positive
    power_w: Positive | None = None
    price_usd: Positive | None = None
    """Of one chip with its share of a server, where a public figure exists."""
    compute_efficiency: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Share of the peak that large matrix products reach."""
    memory_efficiency: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Share of the bandwidth that streaming reads reach."""
    launch_us: Annotated[float, Field(ge=0)] = 0.0
    """Fixed cost of one model step that neither FLOPs nor bytes explain."""
    source: str
    """Where the figures come from; says which are assumed or calibrated."""
    verified: Literal["yes", "partial", "no"]


class Node(Noun):
    """A machine, and the chips in it."""

    name: Name
    chip: Name = "generic-cpu"
    """A name out of the catalogue or of this site's `chips`."""
    chips: Count = 1


class Supernode(Noun):
    """Chips that one scale-up network joins, and the network that joins such supernodes."""

    name: Name
    chip: Name
    chips: Count
    """In one scale-up domain."""
    node_chips: Count = 8
    """On one host: what fails together."""
    scale_up: Name
    """A link generation out of the catalogue, whose latencies and efficiencies apply."""
    scale_up_gb_per_s: Positive
    """Raw, per chip and direction, in 10**9 bytes."""
    scale_out: Name = "ib400"
    scale_out_gb_per_s: Positive
    """Raw, per chip and direction: its own NIC, or its share of the node's."""
    power_kw: Positive | None = None
    """Of the whole supernode, with hosts and switches."""
    price_usd: Positive | None = None
    source: str
    verified: Literal["yes", "partial", "no"]
