"""The other process of `bench kv`'s remote cases: `kv_holder KIND ADDRESS SIZE COUNT`.

`node` is a node of ours, `bare` the least that sockets can do: a request is 9 bytes (P or G, slot),
a block goes by one `sendall` and comes by `recv_into`, straight from and to memory whose pages are
all in place. Prints its address, and ends with its standard input.
"""

import os
import socket
import struct
import sys
import threading
from pathlib import Path

from starloom.kv.arena import private
from starloom.kv.layout import SlotClass
from starloom.kv.remote import Node, parse

REQUEST = struct.Struct("!cQ")
_BUFFER_BYTES = 4 << 20


class Bare:
    """One client's end of the bare exchange. Also what the holder does for it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)

    def put(self, slot: int, data: memoryview) -> None:
        self._sock.sendall(REQUEST.pack(b"P", slot))
        self._sock.sendall(data)
        self._fill(memoryview(bytearray(1)))

    def get(self, slot: int, target: memoryview) -> None:
        self._sock.sendall(REQUEST.pack(b"G", slot))
        self._fill(target)

    def serve(self, slots: list[memoryview]) -> None:
        """Answer until the client goes."""
        head = memoryview(bytearray(REQUEST.size))
        while self._fill(head):
            op, slot = REQUEST.unpack(head)
            if op == b"G":
                self._sock.sendall(slots[slot])
            else:
                self._fill(slots[slot])
                self._sock.sendall(b".")

    def _fill(self, target: memoryview) -> bool:
        while target:
            got = self._sock.recv_into(target, 0, socket.MSG_WAITALL)
            if not got:
                return False
            target = target[got:]
        return True


def pages(size: int) -> memoryview:
    """Page-aligned memory with every page in place."""
    return memoryview(private(size))


def connect(address: str) -> Bare:
    """To a bare holder."""
    end = parse(address)
    sock = socket.socket(socket.AF_UNIX if end.path else socket.AF_INET)
    sock.connect(str(end.path) if end.path else (end.host, end.port))
    return Bare(sock)


def _bare(address: str, size: int, count: int) -> str:
    end = parse(address)
    listener = socket.socket(socket.AF_UNIX if end.path else socket.AF_INET)
    listener.bind(str(end.path) if end.path else (end.host, end.port))
    listener.listen(1)
    area = pages(size * count)
    slots = [area[at * size : (at + 1) * size] for at in range(count)]
    serve = threading.Thread(target=lambda: Bare(listener.accept()[0]).serve(slots), daemon=True)
    serve.start()
    return address if end.path else f"tcp://{end.host}:{listener.getsockname()[1]}"


def _node(address: str, size: int, count: int) -> str:
    node = Node("bench", [parse(address)], [SlotClass(size, count)])
    node.start()
    return str(node.endpoints[0])


def main() -> None:
    """Hold blocks until standard input ends."""
    kind, address, size, count = sys.argv[1:]
    hold = {"node": _node, "bare": _bare}[kind]
    print(hold(address, int(size), int(count)), flush=True)  # noqa: T201  its caller reads it
    sys.stdin.read()
    end = parse(address)
    if end.path is not None:
        Path(end.path).unlink(missing_ok=True)
    os._exit(0)


if __name__ == "__main__":
    main()
