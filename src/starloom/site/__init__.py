"""The nouns of a factory, read from one site file."""

from starloom.site.base import (
    Chip,
    EmbeddedWorker,
    EmulatedWorker,
    Gateway,
    Guard,
    KvPool,
    Limits,
    Model,
    ModelShape,
    Node,
    OpenAIWorker,
    Schedule,
    Tenant,
    WordList,
    Worker,
)
from starloom.site.errors import Problem, SiteError
from starloom.site.site import Site

__all__ = [
    "Chip",
    "EmbeddedWorker",
    "EmulatedWorker",
    "Gateway",
    "Guard",
    "KvPool",
    "Limits",
    "Model",
    "ModelShape",
    "Node",
    "OpenAIWorker",
    "Problem",
    "Schedule",
    "Site",
    "SiteError",
    "Tenant",
    "WordList",
    "Worker",
]
