"""Frames over a blocking socket: 4 bytes of length (little-endian), then msgpack."""

import contextlib
import socket

import msgspec

from starloom.serve.engines.handover.base import Frame, HandoverError

_MAX_FRAME_BYTES = 1 << 16
_HEADER_BYTES = 4


class Channel:
    """A connection. Raises OSError (TimeoutError among them) and `HandoverError`."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Frame)

    def say(self, frame: Frame, payload: memoryview | None = None, timeout_s: float = 0) -> None:
        """Send a frame, and bytes after it, within `timeout_s` (0: as the socket is set)."""
        if timeout_s:
            self.socket.settimeout(timeout_s)
        body = self._encoder.encode(frame)
        self.socket.sendall(len(body).to_bytes(_HEADER_BYTES, "little") + body)
        if payload is not None:
            self.socket.sendall(payload)

    def hear(self, timeout_s: float | None) -> Frame:
        """The next frame; its first byte within `timeout_s`."""
        self.socket.settimeout(timeout_s)
        size = int.from_bytes(self._read(_HEADER_BYTES), "little")
        if size > _MAX_FRAME_BYTES:
            raise HandoverError(f"a frame of {size} bytes is over the limit of {_MAX_FRAME_BYTES}")
        try:
            frame: Frame = self._decoder.decode(self._read(size))
        except msgspec.MsgspecError as error:
            raise HandoverError(f"a frame cannot be read: {error}") from error
        return frame

    def read_into(self, target: memoryview) -> None:
        """Exactly as many bytes as `target` takes."""
        while target:
            got = self.socket.recv_into(target)
            if not got:
                raise ConnectionResetError("the connection ended")
            target = target[got:]

    @property
    def alive(self) -> bool:
        """Whether the other side of an idle connection has neither closed it nor said anything."""
        try:
            self.socket.settimeout(0)
            self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Close it, and wake a thread that waits in a call."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def _read(self, count: int) -> bytearray:
        data = bytearray(count)
        self.read_into(memoryview(data))
        return data
