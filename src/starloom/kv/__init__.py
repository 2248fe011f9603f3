"""Blocks of KV cache that outlive the request that computed them, shared by all workers."""

from starloom.kv.base import Lease, Pool, PoolStat
from starloom.kv.client import PoolClient
from starloom.kv.errors import (
    BlockTooLarge,
    KvError,
    NoSharedMemory,
    PoolProtocolError,
    PoolUnavailable,
)
from starloom.kv.keys import KEY_BYTES, block_keys, root_key
from starloom.kv.layout import SlotClass
from starloom.kv.local import LocalPool
from starloom.kv.policies import POLICIES, Lru, NewPolicy, Policy

__all__ = [
    "KEY_BYTES",
    "POLICIES",
    "BlockTooLarge",
    "KvError",
    "Lease",
    "LocalPool",
    "Lru",
    "NewPolicy",
    "NoSharedMemory",
    "Policy",
    "Pool",
    "PoolClient",
    "PoolProtocolError",
    "PoolStat",
    "PoolUnavailable",
    "SlotClass",
    "block_keys",
    "root_key",
]
