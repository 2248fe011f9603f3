"""Where workers offer hand-over, as text: `unix:PATH` or `tcp:HOST:PORT`."""

import socket
from pathlib import Path

from starloom.serve.engines.handover.base import SILENCE_S, HandoverError, Receiver, Sender
from starloom.serve.engines.handover.shm import ShmReceiver, ShmSender
from starloom.serve.engines.handover.tcp import TcpReceiver, TcpSender
from starloom.serve.engines.server import listen

PIECE_BYTES = 1 << 20
"""About so large is a piece, or one block of one layer where that is larger."""


def piece_bytes(part_bytes: int) -> int:
    """Bytes of the largest piece, where a block has `part_bytes` in a layer."""
    return max(PIECE_BYTES // part_bytes, 1) * part_bytes


def listen_unix(path: Path) -> tuple[socket.socket, str]:
    """A listening socket that only this user can reach, and its address."""
    made = listen(path)
    made.setblocking(True)
    return made, f"unix:{path}"


def listen_tcp(host: str, port: int) -> tuple[socket.socket, str]:
    """A listening socket, and its address with the port that it got. Raises OSError."""
    made = socket.create_server((host, port), family=_family(host))
    return made, f"tcp:{host}:{made.getsockname()[1]}"


def sender(sock: socket.socket, part_bytes: int) -> Sender:
    """The sending end of an accepted connection."""
    if sock.family == socket.AF_UNIX:
        return ShmSender(sock, piece_bytes(part_bytes))
    return TcpSender(sock, piece_bytes(part_bytes))


def connect(address: str, part_bytes: int) -> Receiver:
    """The receiving end of a new connection. Raises OSError or `HandoverError`."""
    kind, _, place = address.partition(":")
    host, _, port = place.rpartition(":")
    if kind == "unix":
        sock = socket.socket(socket.AF_UNIX)
        target: str | tuple[str, int] = place
    elif kind == "tcp" and port.isdecimal():
        sock = socket.socket(_family(host))
        target = (host, int(port))
    else:
        raise HandoverError(f"{address!r} is no address of a hand-over")
    try:
        sock.settimeout(SILENCE_S)
        sock.connect(target)
        if kind == "unix":
            return ShmReceiver(sock, part_bytes)
        return TcpReceiver(sock, part_bytes, piece_bytes(part_bytes))
    except BaseException:
        sock.close()
        raise


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
