"""Nodes below a host's pool: what one host puts, another host's workers find."""

import signal
import threading
import time

import pytest

from starloom.kv import PoolClient, SlotClass, block_keys, root_key
from starloom.kv.remote import RemotePool
from starloom.kv.remote.tier import RemoteTier
from starloom.kv.server import Server
from starloom.kv.ssd import SsdTier

KEYS = block_keys(root_key(fingerprint="w", block_tokens=1, salt="t"), list(range(40)), 1)
BLOCKS = [(key, (key * 100)[: 3000 + at]) for at, key in enumerate(KEYS)]
SLOTS = 16


def held(pool, keys=KEYS) -> list[bytes]:
    with pool.get(keys) as lease:
        views = [bytes(view) for view in lease.views]
        assert lease.valid()
        return views


def data(count: int) -> list[bytes]:
    return [block for _, block in BLOCKS[:count]]


def until(condition, limit_s: float = 10.0) -> None:
    stop = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < stop, "it did not happen in time"
        time.sleep(0.01)


@pytest.fixture
def host(tmp_path):
    """A pool's process in a thread, with these nodes below; clients of it."""
    running: list[tuple[Server, threading.Thread]] = []
    clients: list[PoolClient] = []

    def start(*nodes, slots=SLOTS, wait_s=5.0, ssd=None, **options) -> PoolClient:
        options = {"beat_s": 0, "timeout_s": 5.0, **options}
        afar = RemoteTier(RemotePool([node.address for node in nodes], **options))
        path = tmp_path / f"host-{len(running)}.sock"
        classes = [SlotClass(4096, slots)]
        server = Server(path, classes, afar=afar, ssd=ssd, ssd_wait_s=wait_s)
        thread = threading.Thread(target=server.serve)
        thread.start()
        running.append((server, thread))
        clients.append(PoolClient(path, 10.0))
        return clients[-1]

    yield start
    for client in clients:
        client.close()
    for server, thread in running:
        server.stop()
        thread.join(20)
        assert not thread.is_alive()


class TestTwoHosts:
    """Nobody tells the second host anything: it asks the nodes."""

    def test_what_one_host_puts_another_finds(self, node_thread, host):
        """Bytes go out behind the put and come in by a get, once: then memory has them."""
        node = node_thread()
        one, two = host(node), host(node)
        assert one.put(BLOCKS[:5]) == 5
        until(lambda: one.stat().remote_put_blocks == 5)
        assert two.longest_prefix(KEYS) == 0
        assert held(two) == data(5)
        assert held(two) == data(5)
        stat = two.stat()
        assert (stat.remote_hit_blocks, stat.put_blocks, stat.blocks) == (5, 0, 5)
        assert (stat.nodes, stat.nodes_up) == (1, 1)
        assert two.longest_prefix(KEYS) == 5
        assert node.stat(None).tenants["open"].memory_hit_blocks == 5

    def test_a_prefix_goes_on_where_memory_ends(self, node_thread, host):
        """The first blocks are here, the next ones there: one get gives both."""
        node = node_thread()
        one, two = host(node), host(node)
        one.put(BLOCKS[:9])
        until(lambda: one.stat().remote_put_blocks == 9)
        two.put(BLOCKS[:4])
        assert held(two, KEYS[:7]) == data(7)
        assert held(two, KEYS[3:9]) == data(9)[3:]
        assert two.stat().remote_hit_blocks == 5

    def test_a_prefix_goes_on_where_disk_ends(self, node_thread, host, tmp_path):
        """Memory, disk, nodes: each has a part of it."""
        node = node_thread()
        one = host(node)
        one.put(BLOCKS[:12])
        until(lambda: one.stat().remote_put_blocks == 12)
        ssd = SsdTier(tmp_path / "ssd", [(4096, 64)])
        ssd.put([(key, block) for key, block in BLOCKS[3:6]], timeout_s=5.0)
        two = host(node, ssd=ssd)
        two.put(BLOCKS[:3])
        assert held(two, KEYS[:12]) == data(12)
        stat = two.stat()
        assert (stat.ssd_hit_blocks, stat.remote_hit_blocks) == (3, 6)

    def test_more_than_memory_holds(self, node_thread, host):
        """A chain longer than the host's memory: as much of its beginning as fits."""
        node = node_thread()
        one, two = host(node, slots=64), host(node, slots=8)
        one.put(BLOCKS)
        until(lambda: one.stat().remote_put_blocks == 40)
        assert held(two) == data(8)
        stat = two.stat()
        assert (stat.blocks, stat.pinned_blocks) == (8, 0)

    def test_two_workers_fetch_a_block_once(self, node_thread, host):
        """Eight gets of one chain at the same time: five blocks come over the network in all."""
        node = node_thread()
        one, two = host(node), host(node)
        one.put(BLOCKS[:5])
        until(lambda: one.stat().remote_put_blocks == 5)
        path = two._path
        found = []

        def work() -> None:
            client = PoolClient(path, 10.0)
            found.append(held(client))
            client.close()

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [data(5)] * 8
        assert two.stat().remote_hit_blocks == 5


class TestNodesInTrouble:
    """A host with bad nodes is a host without nodes."""

    def test_dead_nodes_cost_nothing(self, node_thread, host):
        """After the first failure a get with nothing to find takes no time; puts are counted."""
        node = node_thread()
        pool = host(node, timeout_s=0.3)
        node.stop()
        assert held(pool) == []
        began = time.monotonic()
        for _ in range(20):
            assert held(pool) == []
        assert time.monotonic() - began < 1.0
        pool.put(BLOCKS[:3])
        assert held(pool) == data(3)
        until(lambda: pool.stat().remote_dropped_blocks == 3)

    def test_a_slow_node_holds_a_get_no_longer_than_its_wait(self, node_process, host):
        """Stopped in the middle: the get is answered after `wait_s` with what memory has."""
        node = node_process()
        node.address = node.node
        pool = host(node, wait_s=0.2, timeout_s=1.0)
        pool.put(BLOCKS[:2])
        until(lambda: pool.stat().remote_put_blocks == 2)
        node.send(signal.SIGSTOP)
        began = time.monotonic()
        assert held(pool) == data(2)
        assert time.monotonic() - began < 0.7
        node.send(signal.SIGCONT)

    def test_what_comes_too_late_is_there_the_next_time(self, node_thread, host):
        """A get that waits for nothing finds nothing; the blocks arrive behind it."""
        node = node_thread()
        one, two = host(node), host(node, wait_s=0.0)
        one.put(BLOCKS[:5])
        until(lambda: one.stat().remote_put_blocks == 5)
        held(two)
        until(lambda: two.longest_prefix(KEYS) == 5)
        assert held(two) == data(5)

    def test_eviction_between_put_and_sending_is_counted(self, node_thread, host):
        """What leaves memory before its turn is not sent; sent or not, every block is counted."""
        node = node_thread(slots="4096x64")
        pool = host(node, slots=4)
        for at in range(40):
            pool.put(BLOCKS[at : at + 1])
        until(lambda: _settled(pool, 40))
        assert node.depot.stat().blocks == pool.stat().remote_put_blocks

    def test_slots_come_back_whatever_the_nodes_do(self, node_thread, host):
        """After a hundred gets and puts with a node that dies half way nothing is pinned."""
        node = node_thread()
        pool = host(node, timeout_s=0.5)
        for at in range(100):
            pool.put(BLOCKS[at % 30 : at % 30 + 3])
            held(pool, KEYS[at % 20 :])
            if at == 50:
                node.stop()
        until(lambda: pool.stat().pinned_blocks == 0)
        assert pool.put([(bytes([n]) * 32, b"x") for n in range(SLOTS)]) == SLOTS


def _settled(pool, count: int) -> bool:
    stat = pool.stat()
    return stat.remote_put_blocks + stat.remote_dropped_blocks == count
