"""Nodes and wires that break: never a wrong byte, never a hang, and all is well afterwards."""

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.kv import PoolUnavailable, SlotClass, block_keys, root_key
from starloom.kv.channel import Deadline
from starloom.kv.remote import Node, NodeAddress, RemotePool, Secret, frames, parse
from starloom.kv.remote.auth import tenant_line, write_private
from starloom.kv.remote.frames import Op
from starloom.kv.remote.link import Transfer

KEYS = block_keys(root_key(fingerprint="w", block_tokens=1, salt="t"), list(range(40)), 1)
BLOCKS = [(key, (key * 100)[: 3000 + at]) for at, key in enumerate(KEYS)]
BYTES = dict(BLOCKS)
SLACK_S = 0.5
"""Of a busy machine, over a call's deadline."""


def right(pool, keys=KEYS) -> int:
    """How many blocks came; every one of them with the bytes that were put. A failure is a miss."""
    try:
        with pool.get(keys) as lease:
            assert [bytes(view) for view in lease.views] == [
                BYTES[key] for key in keys[: len(lease.views)]
            ]
            return len(lease.views)
    except PoolUnavailable:
        return 0


def put(pool, blocks) -> int:
    try:
        return pool.put(blocks)
    except PoolUnavailable:
        return 0


def free(node) -> int:
    """Slots that hold nothing; with the held ones they are all."""
    with node.depot._lock:
        return node.depot._store.free(0)


def until(condition, limit_s: float = 10.0) -> None:
    stop = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < stop, "it did not happen in time"
        time.sleep(0.01)


class TestBentWires:
    """A bit that flips anywhere is a miss, or changes nothing."""

    @pytest.mark.parametrize("way", ["sent", "answered"])
    def test_a_flip_in_a_get(self, node_thread, remote, middle, way):
        """At 40 places of the conversation, handshake included: right bytes or a miss."""
        node = node_thread()
        remote(node.address).put(BLOCKS[:3])
        plain = middle(node.address)
        with closing(RemotePool([plain.node], beat_s=0)) as pool:
            assert right(pool, KEYS[:3]) == 3
        length, rng, hits = len(getattr(plain, way)), random.Random(1), 0
        for _ in range(40):
            wire = middle(node.address)
            wire.flip = (way, rng.randrange(length), rng.randrange(8))
            with closing(RemotePool([wire.node], beat_s=0, timeout_s=0.2)) as pool:
                hits += right(pool, KEYS[:3]) == 3
        assert hits < 40
        assert right(remote(node.address), KEYS[:3]) == 3

    @pytest.mark.parametrize("way", ["sent", "answered"])
    def test_a_flip_in_a_put(self, node_thread, remote, middle, way):
        """What is kept is what was put; a block whose bytes have changed is not kept."""
        node = node_thread(stall_s=0.2)
        plain = middle(node.address)
        with closing(RemotePool([plain.node], beat_s=0)) as pool:
            pool.put(BLOCKS[20:23])
        length, rng, kept = len(getattr(plain, way)), random.Random(2), 0
        for at in range(40):
            wire = middle(node.address)
            wire.flip = (way, rng.randrange(length), rng.randrange(8))
            key = bytes([at]) * 32
            block = (key * 100)[:3000]
            with closing(RemotePool([wire.node], beat_s=0, timeout_s=0.2)) as pool:
                put(pool, [(key, block), *BLOCKS[:2]])
            with remote(node.address).get([key]) as lease:
                kept += len(lease.views)
                assert [bytes(view) for view in lease.views] in ([], [block])
        assert way == "answered" or kept < 40
        until(lambda: node.depot.stat().pinned_blocks == 0)
        until(lambda: node.depot.stat().blocks + free(node) == 64)

    @pytest.mark.parametrize("way", ["sent", "answered"])
    def test_a_frame_that_is_torn(self, node_thread, remote, middle, way):
        """The connection ends after any number of bytes: slots and pins come back."""
        node = node_thread(stall_s=1.0)
        plain = middle(node.address)
        with closing(RemotePool([plain.node], beat_s=0)) as pool:
            pool.put(BLOCKS[30:33])
            right(pool)
        for after in range(0, len(getattr(plain, way)), 331):
            wire = middle(node.address)
            wire.cut = (way, after)
            with closing(RemotePool([wire.node], beat_s=0, timeout_s=0.5)) as pool:
                put(pool, BLOCKS[:3])
                right(pool, KEYS[:3])
        until(lambda: node.depot.stat().connections == 0)
        stat = node.depot.stat()
        assert (stat.pinned_blocks, stat.blocks + free(node)) == (0, stat.slots)
        assert put(remote(node.address), BLOCKS[:3]) in {0, 3}
        assert right(remote(node.address), KEYS[:3]) == 3

    def test_what_has_come_in_time_counts(self, node_thread, remote, middle):
        """A get that runs out of time keeps the blocks that are whole, and the node its name."""
        node = node_thread()
        remote(node.address).put(BLOCKS[:6])
        wire = middle(node.address)
        pool = remote(wire.node, timeout_s=0.3)
        member = next(iter(pool._members))
        transfer, target = Transfer(), memoryview(bytearray(40000))
        carry = wire._carry
        seen = len(frames.frame(Op.HELLO, 1, bytes(100))) * 2 + 10000

        def slow(way, source, sink):
            wire.cut = None
            carry(way, source, _Stuck(sink, seen) if way == "answered" else sink)

        wire._carry = slow

        def place(lengths):
            return [target[at * 4000 : at * 4000 + length] for at, length in enumerate(lengths)]

        deadline = Deadline(time.monotonic, 0.3)
        with (
            pytest.raises(PoolUnavailable, match="no answer in time"),
            member.link(deadline, transfer) as link,
        ):
            link.get(KEYS[:6], 1 << 20, place, deadline, transfer)
        assert 0 < transfer.good < 6
        assert bytes(target[: len(BLOCKS[0][1])]) == BLOCKS[0][1]
        assert member.up


class TestNonsense:
    """Peers that are nobody of ours, and tenants that say what no client says."""

    def test_bytes_that_are_no_conversation(self, node_thread, remote):
        """Refused, and the connection ended; nobody else notices."""
        node, rng = node_thread(stall_s=0.2), random.Random(3)
        pool = remote(node.address)
        pool.put(BLOCKS[:3])
        for length in (1, 12, 13, 64, 200, 5000):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(5)
                sock.connect(node.address.address.removeprefix("unix://"))
                sock.sendall(rng.randbytes(length))
                with contextlib.suppress(ConnectionResetError):
                    while sock.recv(4096):
                        pass
        assert right(pool, KEYS[:3]) == 3

    @settings(max_examples=60, deadline=None)
    @given(
        op=st.sampled_from([*Op, 0, 99, 255]),
        body=st.one_of(
            st.binary(max_size=200),
            st.integers(0, 2**64 - 1).map(lambda it: it.to_bytes(8, "big") + KEYS[0] * 3),
            st.integers(0, 2**64 - 1).map(lambda it: bytes(8) + KEYS[0] + it.to_bytes(8, "big")),
        ),
    )
    def test_frames_that_no_client_sends(self, talking, op, body):
        """Whole frames with any op and body, from a tenant: an answer or the end, in time."""
        node, pool = talking
        deadline = Deadline(time.monotonic, 5)
        link = next(iter(pool._members)).connect(deadline)
        with contextlib.suppress(OSError):
            link._channel.send([frames.frame(op, 7, body)], deadline)
            link._channel.sock.shutdown(socket.SHUT_WR)
            while link._channel.sock.recv(1 << 16):
                pass
        link.close()
        assert deadline.rest_s() > 0
        assert right(pool, KEYS[:3]) == 3
        until(lambda: node.depot.stat().pinned_blocks == 0)
        until(lambda: node.depot.stat().blocks + free(node) == 64)

    @pytest.fixture(scope="class")
    @staticmethod
    def talking(tmp_path_factory):
        """A node and a client of it, for all examples."""
        path = tmp_path_factory.mktemp("node") / "a.sock"
        node = Node("a", [parse(f"unix://{path}")], [SlotClass(4096, 64)], stall_s=0.2)
        node.start()
        with closing(RemotePool([NodeAddress("a", f"unix://{path}")], beat_s=0)) as pool:
            pool.put(BLOCKS[:3])
            yield node, pool
        node.stop()


class _Stuck:
    """A socket that takes some bytes and then no more for a while."""

    def __init__(self, sock: socket.socket, most: int) -> None:
        self._sock, self._left = sock, most

    def sendall(self, data) -> None:
        part, self._left = data[: self._left], max(0, self._left - len(data))
        self._sock.sendall(part)
        if not self._left:
            time.sleep(0.5)

    def shutdown(self, how) -> None:
        self._sock.shutdown(how)


class TestNodesThatDie:
    """kill -9, stopped, cut off."""

    def test_a_node_killed_in_the_middle_of_anything(self, node_process, remote):
        """Eight clients put and get while it dies: right bytes or a miss, each call in time."""
        node = node_process(slots="1000000x64")
        big = [(key, key * 31250) for key in KEYS[:16]]
        BYTES.update(big)
        slow, wrong, stop = [], [], threading.Event()

        def work(seed: int) -> None:
            rng = random.Random(seed)
            with closing(RemotePool([node.node], beat_s=0.05, timeout_s=0.5)) as pool:
                while not stop.is_set():
                    began = time.monotonic()
                    try:
                        put(pool, big[: rng.randrange(1, 16)])
                        right(pool, KEYS[: rng.randrange(1, 16)])
                    except AssertionError as error:
                        wrong.append(error)
                    slow.append(time.monotonic() - began)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        node.kill()
        time.sleep(0.3)
        stop.set()
        for thread in threads:
            thread.join()
        for key, _ in big:
            BYTES[key] = dict(BLOCKS)[key]
        assert not wrong
        assert max(slow) < 2 * (0.5 + SLACK_S)
        assert len(slow) > 8

    def test_a_client_killed_in_the_middle_of_a_put(self, node_thread, remote):
        """Its slots come back, what it had not finished is never found."""
        node = node_thread(slots="4096x8")
        code = f"""
import sys, time
from starloom.kv.channel import Deadline
from starloom.kv.remote import NodeAddress, RemotePool, frames
from starloom.kv.remote.frames import Op
pool = RemotePool([NodeAddress("a", {node.address.address!r})], beat_s=0)
link = next(iter(pool._members)).connect(Deadline(time.monotonic, 5))
offers = [(bytes([n]) * 32, 4096) for n in range(8)]
link._call(Op.PUT, frames.pack_put(1 << 20, offers), Deadline(time.monotonic, 5))
link._channel.sock.sendall(bytes(5000))
print("ready", flush=True)
sys.stdin.read()
"""
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout.readline() == "ready\n"
            pool = remote(node.address)
            assert free(node) == 0
            assert pool.put(BLOCKS[:1]) == 0
            process.kill()
            process.communicate()
        until(lambda: free(node) == 8)
        assert pool.lengths([bytes([1]) * 32]) == []
        assert pool.put(BLOCKS[:8]) == 8

    def test_a_client_that_stalls_is_dropped(self, node_thread, remote):
        """In the middle of a put and of a get: after `stall_s` slots and pins are back."""
        node = node_thread(slots="8000000x8", stall_s=0.2)
        pool = remote(node.address)
        big = [(key, bytes(8000000)) for key in KEYS[:4]]
        pool.put(big)
        deadline = Deadline(time.monotonic, 5)
        reader, writer = (next(iter(pool._members)).connect(deadline) for _ in range(2))
        body = frames.pack_get(1 << 30, KEYS[:4])
        reader._channel.send([frames.frame(Op.GET, 9, body)], deadline)
        offers = [(bytes([n]) * 32, 8000000) for n in range(4)]
        writer._call(Op.PUT, frames.pack_put(1 << 30, offers), deadline)
        until(lambda: node.depot.stat().pinned_blocks == 4)
        assert free(node) == 0
        until(lambda: free(node) == 4)
        until(lambda: node.depot.stat().pinned_blocks == 0)
        for link in (reader, writer):
            link.close()

    def test_a_node_that_stops_costs_one_deadline(self, node_process, remote):
        """SIGSTOP: the call ends in time, the next ones at once, the other node serves; it returns.

        Heartbeats of 0.1 s take a stopped node out and bring it back.
        """
        nodes = [node_process(name) for name in "ab"]
        pool = remote(*(node.node for node in nodes), timeout_s=0.5)
        chains = [[bytes([n]) * 8 + key[8:] for key in KEYS[:2]] for n in range(16)]
        for chain in chains:
            assert pool.put([(key, key) for key in chain]) == 2
        nodes[0].send(signal.SIGSTOP)
        times = []
        for chain in chains:
            began = time.monotonic()
            put(pool, [(key, key) for key in chain])
            times.append(time.monotonic() - began)
        assert max(times) < 0.5 + SLACK_S
        assert sum(each > 0.2 for each in times) <= 2
        beating = remote(*(node.node for node in nodes), timeout_s=0.5, beat_s=0.1)
        until(lambda: beating.ups() == [False, True])
        nodes[0].send(signal.SIGCONT)
        until(lambda: all(beating.ups()))
        assert sum(beating.longest_prefix(chain) for chain in chains) >= 30

    def test_ten_times_too_much(self, node_thread, remote):
        """40 clients, the node takes 4 at a time: answers or misses, in time; then it is well."""
        node = node_thread(max_connections=4, pages_port=0)
        remote(node.address).put(BLOCKS[:20])
        times: list[float] = []
        hits: list[int] = []

        def work() -> None:
            with closing(RemotePool([node.address], beat_s=0, timeout_s=0.5)) as pool:
                for _ in range(5):
                    began = time.monotonic()
                    hits.append(right(pool, KEYS[:20]))
                    times.append(time.monotonic() - began)

        threads = [threading.Thread(target=work) for _ in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(hits) <= {0, 20}
        assert sum(hits) > 0
        assert max(times) < 0.5 + 2 * SLACK_S
        until(lambda: right(RemotePool([node.address], beat_s=0), KEYS[:20]) == 20)
        assert node.stat(None).state == "well"


def test_the_clock_of_the_wall_is_never_asked():
    """A clock that jumps moves no deadline, no heartbeat and no circuit: all time is monotonic."""
    folder = Path(frames.__file__).parent
    for path in (*folder.glob("*.py"), folder.parent / "channel.py"):
        text = path.read_text()
        assert "time.time" not in text, path
        assert "datetime" not in text, path


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and `ip` for a namespace"
)
def test_a_partition_costs_one_deadline_and_heals(node_process, remote, tmp_path):
    """A node in a network namespace whose link goes down: no reset, no answer; then up again."""
    name = f"slkv{os.getpid() % 100000}"
    host, inside = f"{name[:9]}h", f"{name[:9]}i"

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    try:
        ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.decode().strip()}")
    try:
        ip("link", "add", host, "type", "veth", "peer", "name", inside, "netns", name)
        ip("addr", "add", "10.213.7.1/30", "dev", host)
        ip("link", "set", host, "up")
        ip("-n", name, "addr", "add", "10.213.7.2/30", "dev", inside)
        ip("-n", name, "link", "set", inside, "up")
        ip("-n", name, "link", "set", "lo", "up")
        secret = Secret.new("t")
        write_private(tmp_path / "tenants", tenant_line("t", secret.verifier()))
        node = node_process(
            address="tcp://10.213.7.2:7801",
            prefix=["ip", "netns", "exec", name],
            tenants=tmp_path / "tenants",
        )
        calm = remote(node.node, secret=secret, timeout_s=0.5)
        beating = remote(node.node, secret=secret, timeout_s=0.5, beat_s=0.1)
        assert calm.put(BLOCKS[:5]) == 5
        assert right(beating, KEYS[:5]) == 5
        ip("link", "set", host, "down")
        began = time.monotonic()
        assert right(calm, KEYS[:5]) == 0
        first = time.monotonic() - began
        assert [right(calm, KEYS[:5]) for _ in range(20)] == [0] * 20
        assert first < 0.5 + SLACK_S
        assert time.monotonic() - began - first < 0.6 + SLACK_S
        until(lambda: beating.ups() == [False])
        ip("link", "set", host, "up")
        until(lambda: beating.ups() == [True])
        assert right(beating, KEYS[:5]) == 5
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
