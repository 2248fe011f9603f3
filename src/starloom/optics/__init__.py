"""Optical links of solid and hollow-core fibre: what they carry, how far, and how fast."""

from starloom.optics.base import Amplifier, Fibre, Gas, Mode, Section, Span, Transceiver
from starloom.optics.budget import latency_budget
from starloom.optics.engine import Design, evaluate, link_plan
from starloom.optics.errors import BadLink, BadTopology, NoPlots, OpticsError
from starloom.optics.gnpy_read import from_gnpy
from starloom.optics.gnpy_write import spectrum_to_gnpy, to_gnpy
from starloom.optics.latency import (
    HCF_GROUP_INDEX,
    SMF_GROUP_INDEX,
    VACUUM_US_PER_KM,
    LatencyBudget,
    Stage,
    encryption_us,
    fibre_stage,
    fibre_us,
    group_index,
    us_per_km,
)
from starloom.optics.link import Catalogue, Link, catalogue
from starloom.optics.placing import Placed, place
from starloom.optics.protection import Survival, survival
from starloom.optics.report import Block, page
from starloom.optics.spectrum import Spectrum, of_modes, plan

__all__ = [
    "HCF_GROUP_INDEX",
    "SMF_GROUP_INDEX",
    "VACUUM_US_PER_KM",
    "Amplifier",
    "BadLink",
    "BadTopology",
    "Block",
    "Catalogue",
    "Design",
    "Fibre",
    "Gas",
    "LatencyBudget",
    "Link",
    "Mode",
    "NoPlots",
    "OpticsError",
    "Placed",
    "Section",
    "Span",
    "Spectrum",
    "Stage",
    "Survival",
    "Transceiver",
    "catalogue",
    "encryption_us",
    "evaluate",
    "fibre_stage",
    "fibre_us",
    "from_gnpy",
    "group_index",
    "latency_budget",
    "link_plan",
    "of_modes",
    "page",
    "place",
    "plan",
    "spectrum_to_gnpy",
    "survival",
    "to_gnpy",
    "us_per_km",
]
