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
from starloom.serve.schedule.table import Ticket, WorkerTable

__all__ = [
    "POLICIES",
    "Ask",
    "CacheAware",
    "Decision",
    "KvCost",
    "Learner",
    "LeastOutstanding",
    "Policy",
    "PrefixLoad",
    "Product",
    "RoundRobin",
    "Shed",
    "Sla",
    "Starloom",
    "Ticket",
    "Trip",
    "Weighted",
    "WorkerTable",
    "WorkerView",
]
