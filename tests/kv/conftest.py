"""Pool servers and remote nodes, in processes of their own and in threads of this one."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from starloom.kv.layout import SlotClass
from starloom.kv.remote import Node, NodeAddress, RemotePool, parse
from starloom.kv.server import Server

SLOT_BYTES = 4096


class PoolProcess:
    """`python -m starloom.kv.server`, killed at the end of the test."""

    def __init__(self, path: Path, *slots: str, stall_s: float = 5.0) -> None:
        self.path = path
        self._arguments = [sys.executable, "-m", "starloom.kv.server", "--socket", str(path)]
        self._arguments += ["--stall-s", str(stall_s)]
        for each in slots or (f"{SLOT_BYTES}x8",):
            self._arguments += ["--slots", each]
        self.start()

    def start(self) -> None:
        before = self.path.stat().st_ino if self.path.exists() else None
        self.process = subprocess.Popen(self._arguments, stderr=subprocess.DEVNULL)
        while not self.path.exists() or self.path.stat().st_ino == before:
            assert self.process.poll() is None, "the pool did not start"
            time.sleep(0.01)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.process.wait()

    def end(self) -> None:
        if self.process.poll() is None:
            self.kill()


@pytest.fixture
def pool_process(tmp_path: Path) -> Iterator[Callable[..., PoolProcess]]:
    started: list[PoolProcess] = []

    def start(*slots: str, stall_s: float = 5.0) -> PoolProcess:
        started.append(PoolProcess(tmp_path / "pool.sock", *slots, stall_s=stall_s))
        return started[-1]

    yield start
    for each in started:
        each.end()


@pytest.fixture
def pool_thread(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    running: list[tuple[Server, threading.Thread]] = []

    def start(*slots: str, stall_s: float = 5.0) -> Path:
        path = tmp_path / "pool.sock"
        classes = [SlotClass.parse(each) for each in slots or (f"{SLOT_BYTES}x8",)]
        server = Server(path, classes, stall_s=stall_s)
        thread = threading.Thread(target=server.serve)
        thread.start()
        running.append((server, thread))
        return path

    yield start
    for server, thread in running:
        server.stop()
        thread.join(10)
        assert not thread.is_alive()


NODE = """
import sys
from pathlib import Path
from starloom.kv import SlotClass
from starloom.kv.remote import Node, Tenants, parse, serve_node
tenants = Tenants(Path(sys.argv[4])) if sys.argv[4:] else None
slots = [SlotClass.parse(sys.argv[3])]
node = Node(sys.argv[1], [parse(sys.argv[2])], slots, tenants=tenants)
print(node.endpoints[0], flush=True)
serve_node(node, drain_s=0)
"""


class NodeProcess:
    """A remote node in a process of its own, killed at the end of the test."""

    def __init__(self, name: str, address: str, *words: str, prefix: list[str]) -> None:
        command = [*prefix, sys.executable, "-c", NODE, name, address, *words]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.address = self.process.stdout.readline().strip()
        assert self.address, "the node did not start"
        self.node = NodeAddress(name, self.address)

    def send(self, number: signal.Signals) -> None:
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self.process.wait()

    def end(self) -> None:
        if self.process.poll() is None:
            self.kill()
        self.process.stdout.close()


@pytest.fixture
def node_process() -> Iterator[Callable[..., NodeProcess]]:
    started: list[NodeProcess] = []

    def start(
        name: str = "a",
        address: str = "tcp://127.0.0.1:0",
        slots: str = "4096x64",
        tenants: Path | None = None,
        prefix=(),
    ) -> NodeProcess:
        words = [slots, *([str(tenants)] if tenants else [])]
        started.append(NodeProcess(name, address, *words, prefix=list(prefix)))
        return started[-1]

    yield start
    for each in started:
        each.end()


@pytest.fixture
def node_thread(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    """A node in this process; its `address` attribute says how clients reach it."""
    running: list[Node] = []

    def start(name: str = "a", address: str = "", slots: str = "4096x64", **options) -> Node:
        address = address or f"unix://{tmp_path}/{name}.sock"
        node = Node(name, [parse(address)], [SlotClass.parse(slots)], **options)
        node.start()
        node.address = NodeAddress(name, str(node.endpoints[0]))
        running.append(node)
        return node

    yield start
    for node in running:
        node.stop()


@pytest.fixture
def remote() -> Iterator[Callable[..., RemotePool]]:
    """Clients of nodes, closed at the end of the test; without heartbeats unless asked."""
    made: list[RemotePool] = []

    def connect(*nodes: NodeAddress, **options) -> RemotePool:
        made.append(RemotePool(nodes, **{"beat_s": 0, "timeout_s": 5.0, **options}))
        return made[-1]

    yield connect
    for pool in made:
        pool.close()


class Middle:
    """A wire that can be watched and bent: bytes go through it between a client and a node."""

    def __init__(self, path: Path, target: NodeAddress) -> None:
        self.node = NodeAddress(target.name, f"unix://{path}")
        self._target = parse(target.address).path
        self.sent, self.answered = bytearray(), bytearray()
        self.flip: tuple[str, int, int] | None = None
        """Direction (`sent` or `answered`), byte and bit to turn over, once."""
        self.cut: tuple[str, int] | None = None
        """Direction, and after how many bytes both ends are closed."""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            node = socket.socket(socket.AF_UNIX)
            node.connect(str(self._target))
            for way, source, sink in (("sent", client, node), ("answered", node, client)):
                threading.Thread(target=self._carry, args=(way, source, sink), daemon=True).start()

    def _carry(self, way: str, source: socket.socket, sink: socket.socket) -> None:
        seen = getattr(self, way)
        try:
            while data := bytearray(source.recv(65536)):
                start = len(seen)
                seen += data
                if self.flip and self.flip[0] == way and start <= self.flip[1] < len(seen):
                    data[self.flip[1] - start] ^= 1 << self.flip[2]
                if self.cut and self.cut[0] == way and len(seen) > self.cut[1]:
                    sink.sendall(data[: max(0, self.cut[1] - start)])
                    break
                sink.sendall(data)
        except OSError:
            pass
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def middle(tmp_path: Path) -> Iterator[Callable[[NodeAddress], Middle]]:
    made: list[Middle] = []

    def between(node: NodeAddress) -> Middle:
        made.append(Middle(tmp_path / f"middle-{len(made)}.sock", node))
        return made[-1]

    yield between
    for each in made:
        each.close()
