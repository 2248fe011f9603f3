"""Memory over SSD: what is evicted comes back from disk, through the pool's own socket."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from test_kv_ssd import Faulty, content, key

from starloom.kv import PoolClient, SlotClass
from starloom.kv.server import Server
from starloom.kv.ssd import SsdTier

SIZE = 8192
SLOTS = 8
WAIT_S = 10.0


def blocks(numbers) -> list[tuple[bytes, bytes]]:
    return [(key(number), content(number, SIZE)) for number in numbers]


def keys(numbers) -> list[bytes]:
    return [key(number) for number in numbers]


def read(pool: PoolClient, numbers) -> int:
    """How many leading blocks come back; each must be what was put."""
    with pool.get(keys(numbers)) as lease:
        for number, view in zip(numbers, lease.views, strict=False):
            assert bytes(view) == content(number, SIZE)
        assert lease.valid()
        return len(lease.views)


def settled(pool: PoolClient, what, seconds: float = WAIT_S) -> None:
    """Wait until the counters are as expected."""
    until = time.monotonic() + seconds
    while not what(pool.stat()):
        assert time.monotonic() < until, pool.stat()
        time.sleep(0.005)


@pytest.fixture
def pool(tmp_path):
    """Makes a client of a server in a thread, with 8 slots of memory over a disk."""
    running: list[tuple[PoolClient, Server, threading.Thread]] = []

    def start(disk=None, ssd_slots: int = 64, wait_s: float = 2.0, **more) -> PoolClient:
        ssd = SsdTier(tmp_path / "ssd", [SlotClass(SIZE, ssd_slots)], disk=disk, **more)
        path = tmp_path / f"pool-{len(running)}.sock"
        server = Server(path, [SlotClass(SIZE, SLOTS)], ssd=ssd, ssd_wait_s=wait_s)
        thread = threading.Thread(target=server.serve)
        thread.start()
        running.append((PoolClient(path, WAIT_S), server, thread))
        return running[-1][0]

    def stop() -> None:
        while running:
            client, server, thread = running.pop()
            client.close()
            server.stop()
            thread.join(WAIT_S)
            assert not thread.is_alive()

    start.stop = stop
    yield start
    stop()


def put_slowly(pool: PoolClient, numbers) -> None:
    """One after the other, each time waiting until what goes next is on disk."""
    for number in numbers:
        pool.put(blocks([number]))
        settled(pool, lambda stat: stat.blocks < stat.slots or _ahead(stat))


def _ahead(stat) -> bool:
    return stat.demoted_blocks + stat.ssd_hit_blocks > stat.evicted_blocks


def test_what_memory_evicts_is_found_on_disk(pool):
    """Four times memory's size goes in, and all of it is known and comes back right."""
    made = pool()
    put_slowly(made, range(32))
    assert made.longest_prefix(keys(range(40))) == 32
    assert made.stat().dropped_blocks == 0
    for first in (28, 0, 4):
        assert read(made, range(first, first + 4)) == 4
    stat = made.stat()
    assert (stat.put_blocks, stat.ssd_bad_blocks, stat.ssd_errors) == (32, 0, 0)
    assert stat.ssd_hit_blocks == 8
    assert (stat.hit_blocks, stat.missed_blocks) == (12, 0)
    assert (stat.connections, stat.pinned_blocks) == (1, 0)
    assert stat.put_blocks + stat.ssd_hit_blocks - stat.evicted_blocks == stat.blocks <= SLOTS


def test_a_chain_may_lie_in_both_tiers(pool):
    """Head above, middle below, tail above: one get finds it whole."""
    made = pool()
    put_slowly(made, range(12))
    assert made.longest_prefix(keys(range(12))) == 12
    assert read(made, [11, 0, 10, 1, 9]) == 5


def test_a_get_longer_than_memory_gives_what_fits(pool):
    """The leading blocks, not an error; the rest is a miss to compute."""
    made = pool()
    put_slowly(made, range(20))
    assert 1 <= read(made, range(20)) <= SLOTS
    assert made.stat().pinned_blocks == 0


def test_leases_hold_while_disk_blocks_come_up(pool):
    """Pinned blocks stay where they are whatever is read from disk meanwhile."""
    made = pool()
    put_slowly(made, range(24))
    with made.get(keys([20, 21, 22])) as lease:
        for number in range(10):
            read(made, [number])
        assert lease.valid()
        assert [bytes(view) for view in lease.views] == [content(n, SIZE) for n in (20, 21, 22)]


def test_a_pool_finds_its_blocks_after_a_restart(pool):
    """Memory begins empty; the disk's blocks come up as they are asked for."""
    put_slowly(pool(), range(20))
    pool.stop()
    made = pool()
    found = made.longest_prefix(keys(range(20)))
    assert found >= 20 - SLOTS
    assert made.stat().blocks == 0
    assert read(made, range(6)) == 6


def test_a_slow_disk_is_answered_without(pool):
    """The answer comes at the time limit with what memory has; the block arrives behind it."""
    disk = Faulty()
    made = pool(disk, wait_s=0.05)
    put_slowly(made, range(16))
    disk.gate = threading.Event()
    began = time.monotonic()
    assert read(made, [15, 0]) == 1
    assert time.monotonic() - began < 1.0
    assert read(made, [15]) == 1
    disk.gate.set()
    settled(made, lambda stat: stat.ssd_hit_blocks == 1)
    assert read(made, [15, 0]) == 2


def test_two_gets_of_one_block_read_it_once(pool, tmp_path):
    """The second waits for the first one's read."""
    disk = Faulty()
    made = pool(disk)
    put_slowly(made, range(16))
    disk.delay_s = 0.1
    other = PoolClient(made._path, WAIT_S)
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.append(read(other, [0])))
    thread.start()
    time.sleep(0.03)
    got.append(read(made, [0]))
    thread.join()
    other.close()
    assert got == [1, 1]
    assert made.stat().ssd_hit_blocks == 1


def test_a_client_that_dies_while_it_waits_costs_nothing(pool):
    """The block comes up for others; the connection and its pins are gone."""
    disk = Faulty()
    made = pool(disk)
    put_slowly(made, range(16))
    disk.gate = threading.Event()
    other = PoolClient(made._path, 0.05)
    with pytest.raises(Exception, match="time"):
        other.get(keys([0]))
    other.close()
    disk.gate.set()
    settled(made, lambda stat: stat.connections == 1 and stat.ssd_hit_blocks == 1)
    assert read(made, [0]) == 1
    assert made.stat().pinned_blocks == 0


def test_a_failing_disk_is_a_pool_without_one(pool):
    """Blocks that are evicted are dropped and counted, the flag is down, puts and gets go on."""
    disk = Faulty()
    made = pool(disk)
    disk.write_error = 5
    for number in range(24):
        assert made.put(blocks([number])) == 1
    settled(made, lambda stat: stat.pinned_blocks == 0)
    stat = made.stat()
    assert (stat.demoted_blocks, stat.ssd_healthy) == (0, False)
    assert stat.dropped_blocks == stat.evicted_blocks == 16
    assert read(made, [23]) == 1
    assert read(made, [0]) == 0


def test_corruption_on_disk_is_a_miss(pool, tmp_path):
    """With every page of the file damaged nothing wrong is read; the blocks can be put again."""
    made = pool()
    put_slowly(made, range(24))
    [file] = (tmp_path / "ssd").iterdir()
    data = bytearray(file.read_bytes())
    for at in range(4096, len(data), 4096):
        data[at + 77] ^= 0xFF
    file.write_bytes(data)
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    assert read(made, [0]) == 0
    assert made.stat().ssd_bad_blocks == 1
    assert made.put(blocks([0])) == 1
    assert read(made, [0]) == 1


def test_any_mix_of_clients_sees_only_what_was_put(pool):
    """Four threads, chains of shared prefixes, both tiers too small for all: right or a miss."""
    made = pool(ssd_slots=20)

    def work(seed: int) -> None:
        draw, client = random.Random(seed), PoolClient(made._path, WAIT_S)
        for _ in range(120):
            first = draw.randrange(6) * 10
            chain = range(first, first + draw.randrange(1, 7))
            if draw.random() < 0.5:
                client.put(blocks(chain))
            else:
                read(client, chain)
        client.close()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    settled(made, lambda stat: stat.connections == 1 and stat.pinned_blocks == 0)
    stat = made.stat()
    assert stat.blocks <= SLOTS
    assert stat.ssd_blocks <= 20
    assert stat.ssd_bad_blocks == 0
    assert stat.put_blocks + stat.ssd_hit_blocks - stat.evicted_blocks == stat.blocks


class TestProcess:
    """The server as it is started."""

    def _start(self, tmp_path: Path, *more: str, before=()) -> subprocess.Popen:
        command = [
            *before,
            sys.executable,
            "-m",
            "starloom.kv.server",
            "--socket",
            str(tmp_path / "s"),
        ]
        command += ["--slots", f"{SIZE}x{SLOTS}", "--ssd", str(tmp_path / "ssd")]
        process = subprocess.Popen(
            [*command, "--ssd-wait-s", "2", *more], stderr=subprocess.PIPE, text=True
        )
        while not (tmp_path / "s").exists() and process.poll() is None:
            time.sleep(0.01)
        return process

    def test_blocks_survive_kill_9(self, tmp_path):
        """The next process finds what the disk has."""
        process = self._start(tmp_path, "--ssd-slots", f"{SIZE}x64")
        client = PoolClient(tmp_path / "s", WAIT_S)
        put_slowly(client, range(20))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        client.close()
        (tmp_path / "s").unlink()
        process = self._start(tmp_path, "--ssd-slots", f"{SIZE}x64")
        client = PoolClient(tmp_path / "s", WAIT_S)
        assert read(client, range(8)) == 8
        client.close()
        process.terminate()
        assert "blocks found again" in process.communicate()[1]
        assert process.returncode == 0

    def test_more_than_there_is_room_for_is_refused_before_it_is_tried(self, tmp_path):
        """A petabyte: ENOSPC at once, and the disk is not filled on the way there."""
        with pytest.raises(OSError, match="No space"):
            SsdTier(tmp_path / "ssd", [SlotClass(1 << 40, 1024)])
        assert (tmp_path / "ssd" / f"{1 << 40}.kv").stat().st_size == 0

    def test_a_disk_without_room_leaves_the_pool_in_memory_and_says_so(self, tmp_path):
        """Files are limited to 100 kB here: the log names it, the flag is down, the pool works."""
        limit = ("prlimit", "--fsize=100000")
        process = self._start(tmp_path, "--ssd-slots", f"{SIZE}x64", before=limit)
        client = PoolClient(tmp_path / "s", WAIT_S)
        assert client.put(blocks([1])) == 1
        assert not client.stat().ssd_healthy
        client.close()
        process.terminate()
        assert "without its SSD tier" in process.communicate()[1]
