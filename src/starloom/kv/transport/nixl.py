"""NIXL (ai-dynamo/nixl) behind our transport: POSIX for files, UCX for a peer's memory.

Needs `nixl` or `nixl-cu12` of PyPI. The agent's calls are serialised by a lock here.
"""

import importlib
import threading
import uuid
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

    agent: bytes
    address: int
    size: int


class _Under:
    """A transfer that NIXL has."""

    def __init__(self, lock: threading.Lock, agent: Any, handle: Any) -> None:
        self._lock, self._agent, self._handle = lock, agent, handle
        self._state = agent.transfer(handle)

    def poll(self) -> bool:
        with self._lock:
            if self._handle is not None and self._state == "PROC":
                self._state = self._agent.check_xfer_state(self._handle)
            if self._state == "PROC":
                return False
            if self._handle is not None:
                self._agent.release_xfer_handle(self._handle)
                self._handle = None
        if self._state != "DONE":
            raise TransferFailed(f"NIXL ended a transfer with {self._state}")
        return True


class NixlTransport(Transport):
    """One agent with one backend: `POSIX` or `UCX`."""

    def __init__(self, backend: str = "POSIX", name: str = "") -> None:
        """Raises `NotInstalled`, and ValueError for a backend that this NIXL does not have."""
        api = _api()
        self._name = name or uuid.uuid4().hex
        self._backend = backend
        self._lock = threading.Lock()
        self._agent = api.nixl_agent(self._name, api.nixl_agent_config(backends=[]))
        if backend not in self._agent.get_plugin_list():
            known = ", ".join(sorted(self._agent.get_plugin_list()))
            raise ValueError(f"NIXL has no backend {backend!r} here; there are: {known}")
        self._agent.create_backend(backend, {})
        self._registered: dict[Region, Any] = {}

    def register(self, memory: Buffer) -> Region:
        region = flat_region(memory)
        self._take(region, [(region.address, region.size, 0, "")], "DRAM")
        return region

    def register_file(self, fd: int, size: int) -> Region:
        region = Region(size, fd=fd)
        self._take(region, [(0, size, fd, "")], "FILE")
        return region

    def deregister(self, region: Region) -> None:
        with self._lock:
            self._agent.deregister_memory(self._registered.pop(region), [self._backend])

    def share(self, region: Region) -> bytes:
        """What a peer's `attach` needs to reach this memory; bring it there by other means."""
        with self._lock:
            agent = self._agent.get_agent_metadata()
        return msgspec.msgpack.encode(_Shared(agent, region.address, region.size))

    def attach(self, shared: bytes) -> Region:
        """A peer's memory, as its `share` tells of it. Raises ValueError for what is no such."""
        try:
            told = msgspec.msgpack.decode(shared, type=_Shared)
        except msgspec.DecodeError as error:
            raise ValueError(f"this does not come from `share`: {error}") from error
        with self._lock:
            peer = self._agent.add_remote_agent(told.agent)
        name = peer.decode() if isinstance(peer, bytes) else str(peer)
        return Region(told.size, address=told.address, peer=name)

    def close(self) -> None:
        for region in list(self._registered):
            self.deregister(region)

    def _take(self, region: Region, row: list[tuple[int, int, int, str]], kind: str) -> None:
        with self._lock:
            self._registered[region] = self._agent.register_memory(row, kind, [self._backend])

    def _start(self, op: Op, local: Sequence[Span], remote: Sequence[Span]) -> Transfer:
        peers = {span.region.peer for span in remote}
        if len(peers) != 1:
            raise ValueError("all remote spans of one transfer must be of one peer")
        files = remote[0].region.fd >= 0
        here = [(span.address, span.length, 0) for span in local]
        there = [
            (span.offset, span.length, span.region.fd) if files else (span.address, span.length, 0)
            for span in remote
        ]
        with self._lock:
            handle = self._agent.initialize_xfer(
                op.name,
                self._agent.get_xfer_descs(here, "DRAM"),
                self._agent.get_xfer_descs(there, "FILE" if files else "DRAM"),
                peers.pop() or self._name,
            )
            return _Under(self._lock, self._agent, handle)


def _api() -> Any:
    for name in ("nixl._api", "nixl_cu12._api"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise NotInstalled("NIXL is not installed; pip install nixl (or nixl-cu12), then try again")
