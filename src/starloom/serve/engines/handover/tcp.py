"""Hand-over between hosts: pieces follow their frames over TCP.

A receiver that is behind stops the sender by the socket's own flow control.
"""

import socket
from collections.abc import Callable

from starloom.serve.engines.handover.base import SILENCE_S, Frame, HandoverError, Piece
from starloom.serve.engines.handover.channel import Channel


class TcpSender:
    """A `Sender` with one piece in memory."""

    def __init__(self, sock: socket.socket, piece_bytes: int) -> None:
        _tune(sock)
        self.piece_bytes = piece_bytes
        self._channel = Channel(sock)
        self._buffer = memoryview(bytearray(piece_bytes))

    def piece(self, piece: Piece, size: int, fill: Callable[[memoryview], None]) -> None:
        data = self._buffer[:size]
        fill(data)
        self._channel.say(piece, data, SILENCE_S)

    def say(self, frame: Frame) -> None:
        self._channel.say(frame, timeout_s=SILENCE_S)

    def hear(self, timeout_s: float | None) -> Frame:
        return self._channel.hear(timeout_s)

    def close(self) -> None:
        self._channel.close()


class TcpReceiver:
    """A `Receiver` with one piece in memory. A block has `part_bytes` bytes in each layer."""

    def __init__(self, sock: socket.socket, part_bytes: int, piece_bytes: int) -> None:
        _tune(sock)
        self._channel = Channel(sock)
        self._part_bytes = part_bytes
        self._buffer = memoryview(bytearray(piece_bytes))

    @property
    def alive(self) -> bool:
        return self._channel.alive

    def say(self, frame: Frame) -> None:
        self._channel.say(frame, timeout_s=SILENCE_S)

    def hear(self, timeout_s: float | None) -> tuple[Frame, memoryview]:
        frame = self._channel.hear(timeout_s)
        if not isinstance(frame, Piece):
            return frame, memoryview(b"")
        size = frame.count * self._part_bytes
        if not 0 < size <= len(self._buffer):
            raise HandoverError(f"a piece of {frame.count} blocks")
        self._channel.read_into(self._buffer[:size])
        return frame, self._buffer[:size]

    def close(self) -> None:
        self._channel.close()


def _tune(sock: socket.socket) -> None:
    """Frames go at once, and an idle connection to a machine that is gone ends in minutes."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
