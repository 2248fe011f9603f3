"""Transports in NIXL's shape, and pools that stand on somebody else's store."""

from starloom.kv.transport.base import Op, Region, Span, Transfer, Transport, wait
from starloom.kv.transport.errors import NotInstalled, TransferFailed
from starloom.kv.transport.file import FileTransport
from starloom.kv.transport.memory import MemoryTransport
from starloom.kv.transport.mooncake import MooncakeTransport
from starloom.kv.transport.nixl import NixlTransport
from starloom.kv.transport.pool import TransportPool
from starloom.kv.transport.resp import RespError, RespPool

__all__ = [
    "FileTransport",
    "MemoryTransport",
    "MooncakeTransport",
    "NixlTransport",
    "NotInstalled",
    "Op",
    "Region",
    "RespError",
    "RespPool",
    "Span",
    "Transfer",
    "TransferFailed",
    "Transport",
    "TransportPool",
    "wait",
]
