"""Hand-over on one host: pieces lie in shared memory, and only frames go through the socket.

Each connection has an anonymous file of a few slots (`starloom.kv.arena`), whose descriptor the
sender passes over AF_UNIX. The receiver maps it read-only and tells when it has read a slot: the
sender waits when all are full. Whoever dies, the other's mapping stays readable.
"""

import os
import socket
import struct
from collections import deque
from collections.abc import Callable

from starloom.kv.arena import Arena, ReadArena
from starloom.kv.errors import NoSharedMemory
from starloom.kv.layout import Block, Layout, SlotClass
from starloom.serve.engines.handover.base import SILENCE_S, Frame, HandoverError, Piece, Taken
from starloom.serve.engines.handover.channel import Channel

SLOTS = 4
_GREETING = struct.Struct("<QI")
"""Bytes of a slot, and how many there are."""


class ShmSender:
    """A `Sender` over shared memory."""

    def __init__(self, sock: socket.socket, piece_bytes: int) -> None:
        self.piece_bytes = piece_bytes
        self._channel = Channel(sock)
        try:
            self._arena = Arena(Layout([SlotClass(piece_bytes, SLOTS)]))
        except NoSharedMemory as error:
            raise HandoverError(str(error)) from error
        self._free = deque(range(SLOTS))
        sock.settimeout(SILENCE_S)
        try:
            socket.send_fds(sock, [_GREETING.pack(piece_bytes, SLOTS)], [self._arena.fd])
        finally:
            self._arena.close()  # the descriptor; the memory stays mapped on both sides

    def piece(self, piece: Piece, size: int, fill: Callable[[memoryview], None]) -> None:
        while not self._free:
            self._took(self._channel.hear(SILENCE_S))
        slot = self._free.popleft()
        try:
            # The generation is for readers that outlive their pins; a slot here is filled again
            # only once its reader said so.
            fill(self._arena.claim(Block(slot, size, 0)))
        except BaseException:
            self._free.append(slot)
            raise
        place = Piece(layer=piece.layer, first=piece.first, count=piece.count, slot=slot)
        self._channel.say(place, timeout_s=SILENCE_S)

    def say(self, frame: Frame) -> None:
        self._channel.say(frame, timeout_s=SILENCE_S)

    def hear(self, timeout_s: float | None) -> Frame:
        while isinstance(frame := self._channel.hear(timeout_s), Taken):
            self._took(frame)
        return frame

    def close(self) -> None:
        self._channel.close()

    def _took(self, frame: Frame) -> None:
        if not isinstance(frame, Taken) or frame.slot in self._free or frame.slot >= SLOTS:
            raise HandoverError(f"{frame} where a slot that was read is due")
        self._free.append(frame.slot)


class ShmReceiver:
    """A `Receiver` over shared memory. A block has `part_bytes` bytes in each layer."""

    def __init__(self, sock: socket.socket, part_bytes: int) -> None:
        self._channel = Channel(sock)
        self._part_bytes = part_bytes
        self._arena = _arena(sock)
        self._reading: int | None = None

    @property
    def alive(self) -> bool:
        return self._channel.alive

    def say(self, frame: Frame) -> None:
        self._channel.say(frame, timeout_s=SILENCE_S)

    def hear(self, timeout_s: float | None) -> tuple[Frame, memoryview]:
        if self._reading is not None:
            self._channel.say(Taken(self._reading), timeout_s=SILENCE_S)
            self._reading = None
        frame = self._channel.hear(timeout_s)
        if not isinstance(frame, Piece):
            return frame, memoryview(b"")
        self._reading = frame.slot
        try:
            view = self._arena.view(Block(frame.slot, frame.count * self._part_bytes, 0))
        except IndexError as error:
            raise HandoverError(str(error)) from error
        return frame, view

    def close(self) -> None:
        self._channel.close()


def _arena(sock: socket.socket) -> ReadArena:
    """The memory that the sender passes first."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    if struct.unpack("3i", credentials)[1] != os.getuid():
        raise HandoverError("the worker belongs to another user")
    sock.settimeout(SILENCE_S)
    data, fds, _, _ = socket.recv_fds(sock, _GREETING.size, 1, socket.MSG_CMSG_CLOEXEC)
    try:
        if len(fds) != 1 or len(data) != _GREETING.size:
            raise HandoverError("no shared memory came")
        layout = Layout([SlotClass(*_GREETING.unpack(data))])
        if os.fstat(fds[0]).st_size < layout.total_bytes:
            raise HandoverError("the shared memory is smaller than stated")
        return ReadArena(fds[0], layout)
    except ValueError as error:
        raise HandoverError(str(error)) from error
    finally:
        for fd in fds:
            os.close(fd)
