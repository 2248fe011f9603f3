"""Chips, and the nodes that hold them."""

from typing import Annotated, Literal

from pydantic import Field

from starloom.site.base import Count, Name, Noun, Positive


class Chip(Noun):
    """An accelerator, or a CPU socket that computes. Peaks are dense and per chip."""

    name: Name
    fp32_tflops: Positive
    bf16_tflops: Positive
    memory_gib: Positive
    memory_gb_per_s: Positive
    power_w: Positive | None = None
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
