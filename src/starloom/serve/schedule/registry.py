"""Policies by the names that a site gives them."""

from collections.abc import Callable

from starloom.serve.schedule.base import Policy
from starloom.serve.schedule.policies import (
    CacheAware,
    KvCost,
    LeastOutstanding,
    PrefixLoad,
    Product,
    RoundRobin,
    Weighted,
)
from starloom.serve.schedule.sla import Sla
from starloom.serve.schedule.starloom import Starloom

POLICIES: dict[str, Callable[[], Policy]] = {
    "round_robin": RoundRobin,
    "least_outstanding": LeastOutstanding,
    "cache_aware": CacheAware,
    "kv_cost": KvCost,
    "product": Product,
    "weighted": Weighted,
    "prefix_load": PrefixLoad,
    "starloom": Starloom,
    "sla": Sla,
}
