"""Which model takes a request, the small or the large one: a model of what each gets right."""

from starloom.serve.route.base import (
    Dial,
    Lane,
    RouteDecision,
    Scored,
    Scorer,
    Size,
    Thresholds,
    decide,
    overridden,
)
from starloom.serve.route.drift import DriftReport, DriftWatch
from starloom.serve.route.errors import BadArtifact, BadDial, BadOutcomes, RouteError
from starloom.serve.route.lanes import Lanes, lane_of
from starloom.serve.route.model import RouteModel
from starloom.serve.route.outcomes import Outcomes
from starloom.serve.route.router import Router
from starloom.serve.route.train import Settings, train

__all__ = [
    "BadArtifact",
    "BadDial",
    "BadOutcomes",
    "Dial",
    "DriftReport",
    "DriftWatch",
    "Lane",
    "Lanes",
    "Outcomes",
    "RouteDecision",
    "RouteError",
    "RouteModel",
    "Router",
    "Scored",
    "Scorer",
    "Settings",
    "Size",
    "Thresholds",
    "decide",
    "lane_of",
    "overridden",
    "train",
]
