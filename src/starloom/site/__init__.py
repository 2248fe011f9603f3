"""The nouns of a factory, read from one site file."""

from starloom.site.errors import BadNames, Problem, SiteError
from starloom.site.fabric import Fabric
from starloom.site.gateway import Admin, Gateway, Limits, Telemetry, Tenant
from starloom.site.guard import Guard, Media, Normalise, PatternRule, SafetyModel, WordList
from starloom.site.hardware import Chip, Node, Supernode
from starloom.site.members import found_at, load_workers
from starloom.site.models import Mla, Model, ModelShape, Moe
from starloom.site.pool import KvNode, KvPool, KvSsd, KvTls
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
    "Fabric",
    "Gateway",
    "Guard",
    "KvEvents",
    "KvNode",
    "KvPool",
    "KvSsd",
    "KvTls",
    "Limits",
    "Media",
    "Mla",
    "Model",
    "ModelShape",
    "Moe",
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
    "Supernode",
    "Telemetry",
    "Tenant",
    "WordList",
    "Worker",
    "found_at",
    "load_workers",
]
