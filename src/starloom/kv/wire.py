"""One connection of a client to the pool: frames out, answers in, each within a deadline.

Any error leaves the stream at an unknown place, so whoever uses a `Wire` closes it on every error:
a late answer is then never taken for the answer to a later question.
"""

import os
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from starloom.kv import protocol
from starloom.kv.arena import ReadArena
from starloom.kv.base import PoolStat
from starloom.kv.channel import Channel, Deadline
from starloom.kv.errors import PoolProtocolError
from starloom.kv.layout import Block, Layout
from starloom.kv.protocol import Op

_SEND_BUFFER_BYTES = 4 << 20


class Wire:
    """Raises OSError (TimeoutError among them) and `PoolProtocolError`; is not thread-safe."""

    def __init__(self, sock: socket.socket) -> None:
        self._channel = Channel(sock)
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
        self._channel.close()

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
        self._channel.send([protocol.frame(Op.RELEASE, 0, body)], deadline)

    def put(
        self, blocks: Sequence[tuple[bytes, memoryview]], max_bytes: int, deadline: Deadline
    ) -> list[int]:
        """Offer blocks, send those that are wanted, up to `max_bytes`; returns their positions."""
        wants = [(key, len(data)) for key, data in blocks]
        body = self._call(Op.PUT, protocol.pack_wants(wants, max_bytes), deadline)
        positions = protocol.unpack_positions(body, len(blocks))
        if positions:
            self._channel.send([blocks[position][1] for position in positions], deadline)
            stored = protocol.unpack_count(self._answer(Op.STORED, deadline))
            if stored != len(positions):
                raise PoolProtocolError(f"{stored} blocks stored of {len(positions)} sent")
        return positions

    def stat(self, deadline: Deadline) -> PoolStat:
        return protocol.unpack_stat(self._call(Op.STAT, b"", deadline))

    def _hello(self, deadline: Deadline) -> ReadArena:
        sock = self._channel.sock
        credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        if struct.unpack("3i", credentials)[1] != os.getuid():
            raise PoolProtocolError("the pool belongs to another user")
        self._request += 1
        hello = protocol.frame(Op.HELLO, self._request, protocol.pack_hello())
        self._channel.send([hello], deadline)
        self._channel.limit(deadline, socket.SO_RCVTIMEO)
        try:
            data, fds, _, _ = socket.recv_fds(
                sock, protocol.HEADER_BYTES, 1, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            raise TimeoutError("no answer in time") from None
        try:
            layout = protocol.unpack_classes(self._answer(Op.HELLO, deadline, data))
            return _map(fds, layout)
        finally:
            for fd in fds:
                os.close(fd)

    def _call(self, op: Op, body: bytes, deadline: Deadline) -> bytes:
        self._request += 1
        self._channel.send([protocol.frame(op, self._request, body)], deadline)
        return self._answer(op, deadline)

    def _answer(self, op: Op, deadline: Deadline, begun: bytes = b"") -> bytes:
        head = begun + self._channel.receive(protocol.HEADER_BYTES - len(begun), deadline)
        header = protocol.read_header(head)
        body = self._channel.receive(header.length, deadline)
        return protocol.check_answer(header, op, self._request, body)


def _map(fds: Sequence[int], layout: Layout) -> ReadArena:
    if len(fds) != 1 or os.fstat(fds[0]).st_size < layout.total_bytes:
        raise PoolProtocolError("the pool sent no arena of the size that it states")
    return ReadArena(fds[0], layout)
