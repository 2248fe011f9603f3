"""One connection of a client to the pool: frames out, answers in, each within a deadline.

Any error leaves the stream at an unknown place, so whoever uses a `Wire` closes it on every error:
a late answer is then never taken for the answer to a later question.
"""

import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Self

from starloom.kv import protocol
from starloom.kv.arena import ReadArena
from starloom.kv.base import PoolStat
from starloom.kv.errors import PoolProtocolError
from starloom.kv.layout import Block, Layout
from starloom.kv.protocol import Op

_SEND_BUFFER_BYTES = 4 << 20
_IOV_MAX = 1024


class Deadline:
    """When a call must have ended."""

    def __init__(self, clock: Callable[[], float], limit_s: float) -> None:
        self._clock = clock
        self._at = clock() + limit_s

    def left_s(self) -> float:
        """Seconds left; raises TimeoutError when there are none."""
        left = self.rest_s()
        if not left:
            raise TimeoutError("no answer in time")
        return left

    def rest_s(self) -> float:
        """Seconds left, or 0."""
        return max(0.0, self._at - self._clock())


class Wire:
    """Raises OSError (TimeoutError among them) and `PoolProtocolError`; is not thread-safe."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._request = 0
        self.arena: ReadArena

    @classmethod
    def open(cls, path: Path, deadline: Deadline) -> Self:
        """Connect, say hello and map the arena."""
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
            sock.settimeout(deadline.left_s())
            sock.connect(str(path))
            wire = cls(sock)
            wire.arena = wire._hello(deadline)
        except BaseException:
            sock.close()
            raise
        return wire

    def close(self) -> None:
        self._sock.close()

    def lookup(self, keys: Sequence[bytes], deadline: Deadline) -> int:
        body = self._call(Op.LOOKUP, protocol.pack_keys(keys), deadline)
        return protocol.unpack_count(body)

    def get(self, keys: Sequence[bytes], deadline: Deadline) -> tuple[int, list[Block]]:
        body = self._call(Op.GET, protocol.pack_keys(keys), deadline)
        lease, blocks = protocol.unpack_lease(body)
        if len(blocks) > len(keys):
            raise PoolProtocolError("more blocks than keys")
        return lease, blocks

    def views(self, blocks: Sequence[Block]) -> list[memoryview]:
        """Read-only views of pinned blocks."""
        try:
            return [self.arena.view(block) for block in blocks]
        except IndexError as error:
            raise PoolProtocolError(str(error)) from error

    def release(self, leases: Sequence[int], deadline: Deadline) -> None:
        """Unpin. There is no answer to wait for."""
        body = protocol.pack_leases(leases)
        self._send([memoryview(protocol.frame(Op.RELEASE, 0, body))], deadline)

    def put(
        self, blocks: Sequence[tuple[bytes, memoryview]], max_bytes: int, deadline: Deadline
    ) -> list[int]:
        """Offer blocks, send those that are wanted, up to `max_bytes`; returns their positions."""
        wants = [(key, len(data)) for key, data in blocks]
        body = self._call(Op.PUT, protocol.pack_wants(wants, max_bytes), deadline)
        positions = protocol.unpack_positions(body, len(blocks))
        if positions:
            self._send([blocks[position][1] for position in positions], deadline)
            stored = protocol.unpack_count(self._answer(Op.STORED, deadline))
            if stored != len(positions):
                raise PoolProtocolError(f"{stored} blocks stored of {len(positions)} sent")
        return positions

    def stat(self, deadline: Deadline) -> PoolStat:
        return protocol.unpack_stat(self._call(Op.STAT, b"", deadline))

    def _hello(self, deadline: Deadline) -> ReadArena:
        credentials = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        if struct.unpack("3i", credentials)[1] != os.getuid():
            raise PoolProtocolError("the pool belongs to another user")
        self._request += 1
        hello = protocol.frame(Op.HELLO, self._request, protocol.pack_hello())
        self._send([memoryview(hello)], deadline)
        self._sock.settimeout(deadline.left_s())
        data, fds, _, _ = socket.recv_fds(
            self._sock, protocol.HEADER_BYTES, 1, socket.MSG_CMSG_CLOEXEC
        )
        try:
            layout = protocol.unpack_classes(self._answer(Op.HELLO, deadline, data))
            return _map(fds, layout)
        finally:
            for fd in fds:
                os.close(fd)

    def _call(self, op: Op, body: bytes, deadline: Deadline) -> bytes:
        self._request += 1
        self._send([memoryview(protocol.frame(op, self._request, body))], deadline)
        return self._answer(op, deadline)

    def _answer(self, op: Op, deadline: Deadline, begun: bytes = b"") -> bytes:
        head = begun + self._receive(protocol.HEADER_BYTES - len(begun), deadline)
        header = protocol.read_header(head)
        body = self._receive(header.length, deadline)
        return protocol.check_answer(header, op, self._request, body)

    def _send(self, parts: Sequence[memoryview], deadline: Deadline) -> None:
        queue = deque(part for part in parts if part)
        while queue:
            self._sock.settimeout(deadline.left_s())
            sent = self._sock.sendmsg(list(islice(queue, _IOV_MAX)))
            while queue and sent >= len(queue[0]):
                sent -= len(queue.popleft())
            if sent:
                queue[0] = queue[0][sent:]

    def _receive(self, count: int, deadline: Deadline) -> bytes:
        data = bytearray(count)
        rest = memoryview(data)
        while rest:
            self._sock.settimeout(deadline.left_s())
            got = self._sock.recv_into(rest)
            if not got:
                raise ConnectionResetError("the pool closed the connection")
            rest = rest[got:]
        return bytes(data)


def _map(fds: Sequence[int], layout: Layout) -> ReadArena:
    if len(fds) != 1 or os.fstat(fds[0]).st_size < layout.total_bytes:
        raise PoolProtocolError("the pool sent no arena of the size that it states")
    return ReadArena(fds[0], layout)
