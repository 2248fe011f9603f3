"""Optical links of solid and hollow-core fibre: what they carry, how far, and how fast."""

from starloom.optics.errors import BadLink, BadTopology, NoPlots, OpticsError
from starloom.optics.latency import (
    HCF_GROUP_INDEX,
    SMF_GROUP_INDEX,
    VACUUM_US_PER_KM,
    LatencyBudget,
    Stage,
    fibre_stage,
    fibre_us,
    group_index,
    us_per_km,
)

__all__ = [
    "HCF_GROUP_INDEX",
    "SMF_GROUP_INDEX",
    "VACUUM_US_PER_KM",
    "BadLink",
    "BadTopology",
    "LatencyBudget",
    "NoPlots",
    "OpticsError",
    "Stage",
    "fibre_stage",
    "fibre_us",
    "group_index",
    "us_per_km",
]
