"""Which worker of a model takes a request: pure policies over a table of workers."""

from starloom.serve.schedule.base import (
    Ask,
    Decision,
    Learner,
    Policy,
    Shed,
    Trip,
    WorkerView,
)
from starloom.serve.schedule.breaker import Breaker, Breakers, Permit, State
from starloom.serve.schedule.policies import (
    CacheAware,
    KvCost,
    LeastOutstanding,
    PrefixLoad,
    Product,
    RoundRobin,
    Weighted,
)
from starloom.serve.schedule.registry import POLICIES
from starloom.serve.schedule.sla import Sla
from starloom.serve.schedule.starloom import Starloom
from starloom.serve.schedule.table import Half, Role, Ticket, WorkerTable

__all__ = [
    "POLICIES",
    "Ask",
    "Breaker",
    "Breakers",
    "CacheAware",
    "Decision",
    "Half",
    "KvCost",
    "Learner",
    "LeastOutstanding",
    "Permit",
    "Policy",
    "PrefixLoad",
    "Product",
    "Role",
    "RoundRobin",
    "Shed",
    "Sla",
    "Starloom",
    "State",
    "Ticket",
    "Trip",
    "Weighted",
    "WorkerTable",
    "WorkerView",
]
