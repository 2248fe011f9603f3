"""One contract, two pools: in this process, and behind a socket."""

import threading
from pathlib import Path

import pytest

from starloom.kv import (
    BlockTooLarge,
    Lease,
    LocalPool,
    PoolClient,
    PoolUnavailable,
    SlotClass,
    block_keys,
    root_key,
)

SLOT_BYTES, SLOTS = 4096, 8
ROOT = root_key(fingerprint="w", block_tokens=1, salt="t")


def keys(count: int, first: int = 0) -> list[bytes]:
    return block_keys(ROOT, list(range(first, first + count)), 1)


def blocks(count: int, first: int = 0) -> list[tuple[bytes, bytes]]:
    return [(key, key * (index + 1)) for index, key in enumerate(keys(count, first))]


@pytest.fixture(params=["local", "socket"])
def pool(request, pool_thread):
    if request.param == "local":
        made = LocalPool([SlotClass(SLOT_BYTES, SLOTS)])
    else:
        made = PoolClient(pool_thread(f"{SLOT_BYTES}x{SLOTS}"), 5.0)
    yield made
    made.close()


class TestPoolContract:
    """What `starloom.kv.base.Pool` promises."""

    def test_blocks_come_back_byte_for_byte(self, pool):
        """`get` finds the longest held prefix, and each view equals the bytes that were put."""
        assert pool.put(blocks(4)) == 4
        assert pool.longest_prefix(keys(6)) == 4
        with pool.get(keys(6)) as lease:
            assert isinstance(lease, Lease)
            assert [bytes(view) for view in lease.views] == [data for _, data in blocks(4)]
            assert lease.valid()

    def test_a_miss_is_an_empty_lease(self, pool):
        """Nothing found is no error: no views, and release works."""
        with pool.get(keys(3)) as lease:
            assert list(lease.views) == []
        assert pool.longest_prefix(keys(3)) == 0
        assert pool.longest_prefix([]) == 0

    def test_a_hole_ends_a_prefix(self, pool):
        """Blocks behind one that is missing are not found."""
        pool.put(blocks(4)[:1] + blocks(4)[2:])
        assert pool.longest_prefix(keys(4)) == 1

    def test_held_blocks_are_not_stored_again(self, pool):
        """A second put of the same blocks, and a double in one put, count once."""
        assert pool.put(blocks(2) + blocks(3)) == 3
        assert pool.put(blocks(3)) == 0
        assert pool.stat().blocks == 3

    def test_views_are_read_only_and_end_with_the_lease(self, pool):
        """Writing raises; after release reading raises, the lease is not valid; twice is fine."""
        pool.put(blocks(1))
        lease = pool.get(keys(1))
        view = lease.views[0]
        with pytest.raises(TypeError):
            view[0] = 0
        lease.release()
        lease.release()
        assert not lease.valid()
        with pytest.raises(ValueError, match="released"):
            bytes(view)

    def test_an_array_made_from_a_view_does_not_stop_release(self, pool):
        """Whoever still holds an export keeps memory alive; the pins go all the same."""
        pool.put(blocks(1))
        lease = pool.get(keys(1))
        export = memoryview(lease.views[0])
        lease.release()
        assert pool.stat().pinned_blocks == 0
        assert bytes(export) == blocks(1)[0][1]

    def test_pinned_blocks_are_not_evicted(self, pool):
        """With every slot pinned the tail is left out; after release it finds room."""
        assert pool.put(blocks(SLOTS + 3)) == SLOTS
        with pool.get(keys(SLOTS)) as lease:
            assert pool.stat().pinned_blocks == SLOTS
            assert pool.put(blocks(2, first=100)) == 0
            assert [bytes(view) for view in lease.views] == [data for _, data in blocks(SLOTS)]
        assert pool.put(blocks(2, first=100)) == 2
        assert pool.longest_prefix(keys(SLOTS)) == SLOTS - 2

    def test_eviction_takes_the_least_recently_read_from_its_tail(self, pool):
        """Reading a sequence saves it, and its head outlives its tail."""
        pool.put(blocks(4))
        pool.put(blocks(4, first=100))
        pool.get(keys(4)).release()
        pool.put(blocks(3, first=200))
        assert pool.longest_prefix(keys(4)) == 4
        assert pool.longest_prefix(keys(4, first=100)) == 1

    def test_a_block_that_is_too_large_is_refused(self, pool):
        """The error names the size; nothing of the put is stored; the pool goes on."""
        key = keys(1, first=7)[0]
        with pytest.raises(BlockTooLarge, match=str(SLOT_BYTES + 1)):
            pool.put([*blocks(1), (key, bytes(SLOT_BYTES + 1))])
        assert pool.longest_prefix(keys(1)) == 0
        assert pool.put([(key, bytes(SLOT_BYTES))]) == 1

    def test_any_contiguous_buffer_can_be_put(self, pool):
        """bytes, bytearray, arrays of numbers, and a block of no bytes."""
        data = [b"x", bytearray(b"yy"), memoryview(b"abcdefgh").cast("I"), b""]
        assert pool.put(list(zip(keys(4), data, strict=True))) == 4
        with pool.get(keys(4)) as lease:
            assert [bytes(view) for view in lease.views] == [b"x", b"yy", b"abcdefgh", b""]

    def test_a_key_of_another_length_is_refused(self, pool):
        """Keys come from `starloom.kv.keys`; anything else is a caller's error."""
        for call in (pool.longest_prefix, pool.get, lambda them: pool.put([(them[0], b"")])):
            with pytest.raises(ValueError, match="32 bytes"):
                call([b"short"])

    def test_counters_tell_what_happened(self, pool):
        """Hits and misses are those of `get`; stored, rejected and evicted are those of `put`."""
        pool.put(blocks(SLOTS))
        pool.longest_prefix(keys(3))
        pool.get(keys(SLOTS + 2)).release()
        pool.put(blocks(1, first=100))
        stat = pool.stat()
        assert (stat.lookups, stat.hit_blocks, stat.missed_blocks) == (1, SLOTS, 2)
        assert (stat.put_blocks, stat.evicted_blocks, stat.rejected_blocks) == (SLOTS + 1, 1, 0)
        assert (stat.slots, stat.slot_bytes, stat.connections) == (SLOTS, SLOT_BYTES, 1)

    def test_threads_share_a_pool(self, pool):
        """Readers and writers in four threads never see anything but what was put."""
        wrong: list[str] = []

        def work(seed: int) -> None:
            for turn in range(40):
                first = (seed * 7 + turn) % 5 * 1000
                pool.put(blocks(3, first))
                with pool.get(keys(3, first)) as lease:
                    seen = [bytes(view) for view in lease.views]
                    if seen != [data for _, data in blocks(3, first)][: len(seen)]:
                        wrong.append(f"{seed} {turn}")

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert pool.stat().pinned_blocks == 0

    def test_a_closed_pool_is_unavailable(self, pool):
        """After `close` every call raises, views of a lease stay readable, release is fine."""
        pool.put(blocks(1))
        lease = pool.get(keys(1))
        pool.close()
        pool.close()
        assert bytes(lease.views[0]) == blocks(1)[0][1]
        lease.release()
        for call in (lambda: pool.get(keys(1)), pool.stat, lambda: pool.put(blocks(1))):
            with pytest.raises(PoolUnavailable, match="closed"):
                call()


def test_a_put_larger_than_one_round_is_stored_whole(pool_thread, monkeypatch):
    """Rounds are an inner matter: all blocks arrive, and held ones are skipped in any round."""
    monkeypatch.setattr("starloom.kv.client.PUT_ROUND_BYTES", 100)
    pool = PoolClient(pool_thread(f"{SLOT_BYTES}x{SLOTS}"), 5.0)
    pool.put(blocks(6)[:2])
    assert pool.put(blocks(SLOTS + 3)) == SLOTS - 2
    assert pool.longest_prefix(keys(SLOTS + 3)) == SLOTS
    pool.close()


def test_a_put_that_runs_out_of_time_leaves_its_tail_out(pool_thread, monkeypatch):
    """Rounds stop before the limit: what went in stays, the connection and its leases too."""
    monkeypatch.setattr("starloom.kv.client.PUT_ROUND_BYTES", 1)
    now = iter(range(1000))
    pool = PoolClient(pool_thread(f"{SLOT_BYTES}x{SLOTS}"), 30.0, clock=lambda: next(now))
    with pool.get(keys(1)):
        pass
    stored = pool.put(blocks(SLOTS))
    assert 0 < stored < SLOTS
    assert pool.longest_prefix(keys(SLOTS)) == stored
    assert pool.stat().connections == 1
    pool.close()


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_connections_leak_no_descriptors(pool_thread):
    """200 times connect, use and close: client and server hold no more of them than before.

    The arena's mapping keeps a descriptor of its own, so it is covered too.
    """
    path = pool_thread()
    first = PoolClient(path, 5.0)
    first.put(blocks(1))
    before = descriptors()
    for _ in range(200):
        pool = PoolClient(path, 5.0)
        with pool.get(keys(1)) as lease:
            assert lease.views[0][0] == keys(1)[0][0]
        pool.close()
    while first.stat().connections > 1:
        pass
    assert descriptors() <= before
    first.close()
