"""A connected stream socket, plain or TLS, on which everything ends within a deadline.

Bytes are sent from where they lie (gathered) and received where they belong. A plain socket stays
blocking and the kernel keeps the time (SO_RCVTIMEO, SO_SNDTIMEO), so that one call moves a whole
chunk; a poll before each call, as Python's own time limits need, costs a third of the rate.
"""

import contextlib
import math
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

CHUNK_BYTES = 1 << 20
"""Received at a time: what is summed next is still in the processor's cache."""
_IOV_MAX = 1024
_TIMEVAL = struct.Struct("@ll")


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


class Channel:
    """Raises OSError, TimeoutError among them. One thread sends or receives at a time.

    After any error the stream is at an unknown place: close it.
    """

    def __init__(self, sock: socket.socket) -> None:
        """Take over a connected socket."""
        self.sock = sock
        self._tls = isinstance(sock, ssl.SSLSocket)
        if not self._tls:
            sock.settimeout(None)

    def close(self) -> None:
        """Give the socket back. No thread may be in a call: see `abort`."""
        self.sock.close()

    def abort(self) -> None:
        """End both directions, from any thread: whoever waits gets an error at once."""
        # The plain socket's own method: TLS would first say goodbye, and wait.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

    def limit(self, deadline: Deadline, option: int) -> None:
        """Have the kernel (or Python, for TLS) end the next call when time is up."""
        left_s = deadline.left_s()
        if self._tls:
            self.sock.settimeout(left_s)
            return
        part, whole = math.modf(max(left_s, 1e-3))
        time = _TIMEVAL.pack(int(whole), int(part * 1e6))
        self.sock.setsockopt(socket.SOL_SOCKET, option, time)

    def send(self, parts: Sequence[memoryview | bytes], deadline: Deadline) -> None:
        """Send all parts, one after the other."""
        queue = deque(memoryview(part) for part in parts if part)
        while queue:
            self.limit(deadline, socket.SO_SNDTIMEO)
            try:
                if self._tls:
                    sent = self.sock.send(queue[0])
                else:
                    sent = self.sock.sendmsg(list(islice(queue, _IOV_MAX)))
            except BlockingIOError:
                raise TimeoutError("the peer takes nothing") from None
            while queue and sent >= len(queue[0]):
                sent -= len(queue.popleft())
            if sent:
                queue[0] = queue[0][sent:]

    def receive(self, count: int, deadline: Deadline) -> bytes:
        """The next `count` bytes."""
        data = bytearray(count)
        self.receive_into(memoryview(data), deadline)
        return bytes(data)

    def receive_into(
        self,
        target: memoryview,
        deadline: Deadline,
        seen: Callable[[memoryview], object] | None = None,
    ) -> None:
        """Fill the target; `seen` is told of each piece as soon as it has come."""
        flags = 0 if self._tls else socket.MSG_WAITALL
        at, end = 0, len(target)
        while at < end:
            self.limit(deadline, socket.SO_RCVTIMEO)
            piece = target[at : at + CHUNK_BYTES]
            try:
                got = self.sock.recv_into(piece, 0, flags)
            except BlockingIOError:
                raise TimeoutError("no answer in time") from None
            if not got:
                raise ConnectionResetError("the peer closed the connection")
            if seen is not None:
                seen(piece[:got])
            at += got
