"""Bytes in motion between registered memory and what is not: the contract, in NIXL's shape.

Register memory and files once, describe what is to move as pairs of spans, start, poll. `local` is
memory of this process; `remote` is whatever the transport reaches: a file, another process' memory.
A transport moves bytes and knows nothing of blocks: see `starloom.kv.transport.pool` for a `Pool`
that stands on one.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, Protocol

import numpy as np
from typing_extensions import Buffer


class Op(Enum):
    READ = "read"
    """From remote to local."""
    WRITE = "write"
    """From local to remote."""


@dataclass(frozen=True, eq=False)
class Region:
    """Something registered: memory of ours, a file, or a peer's memory."""

    size: int
    memory: memoryview | None = None
    fd: int = -1
    address: int = 0
    peer: str = ""
    """Who has it; empty for this process."""

    def span(self, offset: int, length: int) -> "Span":
        """A part of it. Raises ValueError beyond its end."""
        if not 0 <= offset <= offset + length <= self.size:
            raise ValueError(f"bytes {offset} to {offset + length} of a region of {self.size}")
        return Span(self, offset, length)


class Span(NamedTuple):
    """A descriptor: `length` bytes of a region."""

    region: Region
    offset: int
    length: int

    @property
    def data(self) -> memoryview:
        """The bytes, where the region is memory of ours."""
        if self.region.memory is None:
            raise ValueError("this region is no memory of this process")
        return self.region.memory[self.offset : self.offset + self.length]

    @property
    def address(self) -> int:
        return self.region.address + self.offset


class Transfer(Protocol):
    """Bytes on their way. The spans' memory is in use until `poll` is true or raises."""

    def poll(self) -> bool:
        """Whether all have arrived. Raises `TransferFailed`."""


class Transport(ABC):
    """Registers, starts, closes. Thread-safe unless an implementation says otherwise."""

    @abstractmethod
    def register(self, memory: Buffer) -> Region:
        """Have memory ready for transfers; it is kept alive until `deregister`. OSError."""

    @abstractmethod
    def register_file(self, fd: int, size: int) -> Region:
        """Have the first `size` bytes of an open file ready. ValueError where it cannot be."""

    @abstractmethod
    def deregister(self, region: Region) -> None:
        """Let a region go. No transfer may use it."""

    @abstractmethod
    def _start(self, op: Op, local: Sequence[Span], remote: Sequence[Span]) -> Transfer: ...

    @abstractmethod
    def close(self) -> None:
        """End. Transfers under way may or may not arrive."""

    def start(self, op: Op, local: Sequence[Span], remote: Sequence[Span]) -> Transfer:
        """Begin to move `local[i]` to or from `remote[i]`.

        Raises ValueError, before anything moves, for lists that do not pair.
        """
        if [span.length for span in local] != [span.length for span in remote]:
            raise ValueError("local and remote spans must pair: as many, and as long")
        if any(span.region.memory is None for span in local):
            raise ValueError("a local span must be memory of this process")
        return self._start(op, local, remote)


class Ended:
    """A transfer that was over when it began."""

    def poll(self) -> bool:
        return True


def wait(transfer: Transfer, timeout_s: float) -> None:
    """Poll until it is over. Raises `TransferFailed`, TimeoutError too: it is still under way."""
    until, pause_s = time.monotonic() + timeout_s, 0.0
    while not transfer.poll():
        if time.monotonic() > until:
            raise TimeoutError(f"a transfer has not ended in {timeout_s} s")
        time.sleep(pause_s)
        pause_s = min(pause_s + 2e-6, 1e-3)


def flat_region(memory: Buffer) -> Region:
    """A region over memory of ours. Raises TypeError where it is not contiguous."""
    view = memoryview(memory).cast("B")
    return Region(len(view), view, address=address_of(view))


def address_of(view: memoryview) -> int:
    """Where it lies."""
    if not view:
        return 0
    address: int = np.frombuffer(view, np.uint8).__array_interface__["data"][0]
    return address
