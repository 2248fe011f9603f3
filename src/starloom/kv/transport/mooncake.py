"""Mooncake's Transfer Engine behind our transport: another process' registered memory.

Needs `mooncake-transfer-engine` of PyPI (`-non-cuda` where there is no GPU). Engines find each
other by address (`P2PHANDSHAKE`): no metadata server.
"""

import importlib
from collections.abc import Sequence
from typing import Any

import msgspec
from typing_extensions import Buffer

from starloom.kv.transport.base import (
    Op,
    Region,
    Span,
    Transfer,
    Transport,
    flat_region,
)
from starloom.kv.transport.errors import NotInstalled, TransferFailed


class _Shared(msgspec.Struct, frozen=True):
    """What a peer needs to reach a region."""

    engine: str
    address: int
    size: int


class _Over:
    """The engine's batch calls end with the transfer."""

    def __init__(self, failed: int) -> None:
        self._failed = failed

    def poll(self) -> bool:
        if self._failed:
            raise TransferFailed(f"Mooncake ended a transfer with {self._failed}")
        return True


class MooncakeTransport(Transport):
    """One engine. `start` returns when the bytes have arrived; other threads may run meanwhile."""

    def __init__(self, host: str = "127.0.0.1", protocol: str = "tcp", device: str = "") -> None:
        """Raises `NotInstalled`, and OSError where the engine does not start."""
        try:
            engine = importlib.import_module("mooncake.engine")
        except ImportError as error:
            raise NotInstalled(
                "Mooncake is not installed; pip install mooncake-transfer-engine-non-cuda"
            ) from error
        self._engine: Any = engine.TransferEngine()
        if failed := self._engine.initialize(host, "P2PHANDSHAKE", protocol, device):
            raise OSError(f"Mooncake's engine did not start on {host} with {protocol}: {failed}")
        self.name = f"{host}:{self._engine.get_rpc_port()}"
        self._registered: set[Region] = set()

    def register(self, memory: Buffer) -> Region:
        region = flat_region(memory)
        if failed := self._engine.register_memory(region.address, region.size):
            raise OSError(f"Mooncake does not take {region.size} bytes of memory: {failed}")
        self._registered.add(region)
        return region

    def register_file(self, fd: int, size: int) -> Region:
        raise ValueError(
            f"file {fd} of {size} bytes: this transport moves memory; use FileTransport"
        )

    def deregister(self, region: Region) -> None:
        self._registered.discard(region)
        self._engine.unregister_memory(region.address)

    def share(self, region: Region) -> bytes:
        """What a peer's `attach` needs to reach this memory; bring it there by other means."""
        return msgspec.msgpack.encode(_Shared(self.name, region.address, region.size))

    def attach(self, shared: bytes) -> Region:
        """A peer's memory, as its `share` tells of it. Raises ValueError for what is no such."""
        try:
            told = msgspec.msgpack.decode(shared, type=_Shared)
        except msgspec.DecodeError as error:
            raise ValueError(f"this does not come from `share`: {error}") from error
        return Region(told.size, address=told.address, peer=told.engine)

    def close(self) -> None:
        for region in list(self._registered):
            self.deregister(region)

    def _start(self, op: Op, local: Sequence[Span], remote: Sequence[Span]) -> Transfer:
        peers = {span.region.peer for span in remote}
        if len(peers) != 1 or "" in peers:
            raise ValueError("all remote spans of one transfer must be of one attached peer")
        engine = self._engine
        move = engine.batch_transfer_sync_read
        if op is Op.WRITE:
            move = engine.batch_transfer_sync_write
        here, there = [span.address for span in local], [span.address for span in remote]
        return _Over(move(peers.pop(), here, there, [span.length for span in local]))
