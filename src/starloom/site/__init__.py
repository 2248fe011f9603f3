"""The nouns of a factory, read from one site file."""

from starloom.site.errors import BadNames, Problem, SiteError
from starloom.site.gateway import Admin, Gateway, Limits, Telemetry, Tenant
from starloom.site.guard import Guard, Media, Normalise, PatternRule, SafetyModel, WordList
from starloom.site.hardware import Chip, Node
from starloom.site.members import found_at, load_workers
from starloom.site.models import Model, ModelShape
from starloom.site.pool import KvPool, KvSsd
from starloom.site.route import Route, RouteDial, RouteLanes
from starloom.site.schedule import BreakerRules, Schedule
from starloom.site.site import Site
from starloom.site.workers import (
    Discover,
    EmbeddedWorker,
    EmulatedWorker,
    KvEvents,
    OpenAIWorker,
    Worker,
)

__all__ = [
    "Admin",
    "BadNames",
    "BreakerRules",
    "Chip",
    "Discover",
    "EmbeddedWorker",
    "EmulatedWorker",
    "Gateway",
    "Guard",
    "KvEvents",
    "KvPool",
    "KvSsd",
    "Limits",
    "Media",
    "Model",
    "ModelShape",
    "Node",
    "Normalise",
    "OpenAIWorker",
    "PatternRule",
    "Problem",
    "Route",
    "RouteDial",
    "RouteLanes",
    "SafetyModel",
    "Schedule",
    "Site",
    "SiteError",
    "Telemetry",
    "Tenant",
    "WordList",
    "Worker",
    "found_at",
    "load_workers",
]
