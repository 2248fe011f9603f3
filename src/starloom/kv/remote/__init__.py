"""Nodes that hold blocks for many hosts, and what their clients see of them."""

from starloom.kv.remote.auth import Secret, Tenants, Verifier
from starloom.kv.remote.base import Endpoint, NodeAddress, NodeStat, Seen, TenantStat, parse
from starloom.kv.remote.members import Members
from starloom.kv.remote.node import Node, serve_node
from starloom.kv.remote.pool import RemotePool
from starloom.kv.remote.tls import client_context, server_context

__all__ = [
    "Endpoint",
    "Members",
    "Node",
    "NodeAddress",
    "NodeStat",
    "RemotePool",
    "Secret",
    "Seen",
    "TenantStat",
    "Tenants",
    "Verifier",
    "client_context",
    "parse",
    "serve_node",
    "server_context",
]
