"""Which block goes when room is needed. A policy is pure: it sees keys, it reads no clock."""

from starloom.kv.policies.arc import Arc
from starloom.kv.policies.base import K, NewPolicy, Policy, PolicyOf, PrefixPolicy
from starloom.kv.policies.belady import Belady, Returning, next_uses
from starloom.kv.policies.hazard import Hazard, Starloom
from starloom.kv.policies.lfu import Lfu
from starloom.kv.policies.lru import Fifo, Lru
from starloom.kv.policies.mq import Mq
from starloom.kv.policies.s3fifo import S3Fifo
from starloom.kv.policies.sieve import Sieve
from starloom.kv.policies.wtinylfu import WTinyLfu

POLICIES: dict[str, NewPolicy] = {
    "lru": Lru,
    "fifo": Fifo,
    "lfu": Lfu,
    "sieve": Sieve,
    "s3fifo": S3Fifo,
    "wtinylfu": WTinyLfu,
    "arc": Arc,
    "mq": Mq,
    "hazard": Hazard,
    "starloom": Starloom,
}
"""By the name that a site and a bench know them by; called with a capacity in blocks."""

__all__ = [
    "POLICIES",
    "Arc",
    "Belady",
    "Fifo",
    "Hazard",
    "K",
    "Lfu",
    "Lru",
    "Mq",
    "NewPolicy",
    "Policy",
    "PolicyOf",
    "PrefixPolicy",
    "Returning",
    "S3Fifo",
    "Sieve",
    "Starloom",
    "WTinyLfu",
    "next_uses",
]
