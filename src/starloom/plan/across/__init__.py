"""Training over several data centres: what distance takes from a step."""

from starloom.plan.across.article import Arithmetic, arithmetic
from starloom.plan.across.base import Across, LatencyMode, Leg, Strategy, TrainingSite
from starloom.plan.across.formula import (
    MODES,
    Loss,
    balance_loss_pct,
    balanced,
    crossing_km,
    loss,
    modes_of,
)
from starloom.plan.across.pipe import Pipe, simulate_pipeline
from starloom.plan.across.ring import (
    Simulated,
    simulate_hierarchical,
    simulate_local,
    simulate_ring,
)
from starloom.plan.across.table import Point, points
from starloom.plan.across.trials import SHIPPED, Checked, Trial, check, read

__all__ = [
    "MODES",
    "SHIPPED",
    "Across",
    "Arithmetic",
    "Checked",
    "LatencyMode",
    "Leg",
    "Loss",
    "Pipe",
    "Point",
    "Simulated",
    "Strategy",
    "TrainingSite",
    "Trial",
    "arithmetic",
    "balance_loss_pct",
    "balanced",
    "check",
    "crossing_km",
    "loss",
    "modes_of",
    "points",
    "read",
    "simulate_hierarchical",
    "simulate_local",
    "simulate_pipeline",
    "simulate_ring",
]
