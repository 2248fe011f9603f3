"""Which worker takes a request: pure policies over a table of workers."""

from starloom.serve.schedule.base import Ask, Decision, Policy, WorkerView
from starloom.serve.schedule.policies import POLICIES, LeastOutstanding, PrefixLoad, RoundRobin
from starloom.serve.schedule.table import Ticket, WorkerTable

__all__ = [
    "POLICIES",
    "Ask",
    "Decision",
    "LeastOutstanding",
    "Policy",
    "PrefixLoad",
    "RoundRobin",
    "Ticket",
    "WorkerTable",
    "WorkerView",
]
