"""Transfers between memory and files, by threads; spans that lie together go in one system call."""

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from typing_extensions import Buffer

from starloom.kv.ssd.queue import IoQueue
from starloom.kv.transport.base import (
    Op,
    Region,
    Span,
    Transport,
    flat_region,
)
from starloom.kv.transport.errors import TransferFailed

THREADS, DEPTH = 4, 4096
_STALL_S = 10.0


class FileTransfer:
    """Ends with its last job."""

    def __init__(self, pending: int) -> None:
        self._lock = threading.Lock()
        self._pending = pending
        self._why = ""

    def poll(self) -> bool:
        if self._pending:
            return False
        if self._why:
            raise TransferFailed(self._why)
        return True

    def ended(self, count: int, why: str = "") -> None:
        """So many spans have arrived, or have not."""
        with self._lock:
            self._why = self._why or why
            self._pending -= count


@dataclass(slots=True, eq=False)
class _Job:
    transfer: FileTransfer
    op: Op
    local: Span
    remote: Span

    @property
    def size(self) -> int:
        return self.local.length

    def leads(self, other: "_Job") -> bool:
        """Whether the other one's place in the file begins where this one's ends."""
        return (
            self.transfer is other.transfer
            and self.remote.region is other.remote.region
            and self.remote.offset + self.remote.length == other.remote.offset
        )


class FileTransport(Transport):
    """preadv and pwritev; with an O_DIRECT descriptor spans must be aligned to pages."""

    def __init__(self, threads: int = THREADS) -> None:
        self._queue: IoQueue[_Job] = IoQueue(threads, DEPTH, _STALL_S, lambda: _move)

    def register(self, memory: Buffer) -> Region:
        return flat_region(memory)

    def register_file(self, fd: int, size: int) -> Region:
        if (found := os.fstat(fd).st_size) < size:
            raise ValueError(f"the file has {found} bytes, {size} are to be registered")
        return Region(size, fd=fd)

    def deregister(self, region: Region) -> None:
        """Nothing was taken."""

    def close(self) -> None:
        self._queue.close(_STALL_S)

    def _start(self, op: Op, local: Sequence[Span], remote: Sequence[Span]) -> FileTransfer:
        if any(span.region.fd < 0 for span in remote):
            raise ValueError("a remote span must be of a registered file")
        transfer = FileTransfer(len(local))
        jobs = [_Job(transfer, op, *pair) for pair in zip(local, remote, strict=True)]
        while jobs:
            if not (room := self._queue.wait_for_room(_STALL_S)):
                break
            taken = self._queue.submit(jobs[:room], urgent=op is Op.READ)
            jobs = jobs[taken:]
            if not taken:
                break
        if jobs:
            transfer.ended(len(jobs), self._queue.why_not() or "the transport is closed or full")
        return transfer


def _move(run: Sequence[_Job]) -> None:
    first = run[0]
    parts = [job.local.data for job in run if job.size]
    call = os.preadv if first.op is Op.READ else os.pwritev
    size, why = sum(map(len, parts)), ""
    try:
        done = call(first.remote.region.fd, parts, first.remote.offset) if size else 0
        if done != size:
            why = f"{done} of {size} bytes at {first.remote.offset} were moved"
    except OSError as error:
        why = f"{first.op.value} at {first.remote.offset}: {error.strerror}"
    first.transfer.ended(len(run), why)
