"""Transports in NIXL's shape, and pools on top of them and of a real redis-server."""

import os
import secrets
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.kv import Lease, PoolUnavailable, SlotClass, block_keys, root_key
from starloom.kv.errors import BlockTooLarge
from starloom.kv.transport import (
    FileTransport,
    MemoryTransport,
    MooncakeTransport,
    NixlTransport,
    NotInstalled,
    Op,
    RespPool,
    TransferFailed,
    TransportPool,
    wait,
)

SIZE, SLOTS, WAIT_S = 4096, 8, 10.0
ROOT = root_key(fingerprint="w", block_tokens=1, salt="t")


def keys(count: int, first: int = 0) -> list[bytes]:
    return block_keys(ROOT, list(range(first, first + count)), 1)


def blocks(count: int, first: int = 0) -> list[tuple[bytes, bytes]]:
    return [(key, key * (index + 1)) for index, key in enumerate(keys(count, first))]


@pytest.fixture(params=["memory", "file"])
def made(request, tmp_path):
    """A transport, and makes remote regions for it."""
    opened: list[int] = []
    transport = MemoryTransport() if request.param == "memory" else FileTransport(threads=2)

    def region(size: int):
        if request.param == "memory":
            return transport.register(bytearray(size))
        opened.append(os.open(tmp_path / f"f{len(opened)}", os.O_RDWR | os.O_CREAT))
        os.truncate(opened[-1], size)
        return transport.register_file(opened[-1], size)

    yield transport, region
    transport.close()
    for fd in opened:
        os.close(fd)


class TestTransport:
    """What `starloom.kv.transport.base` promises."""

    def test_bytes_go_and_come_back(self, made):
        """Several spans in one transfer, in any order, each to its own place."""
        transport, region = made
        remote, area = region(4 * SIZE), bytearray(secrets.token_bytes(3 * SIZE))
        local = transport.register(area)
        here = [local.span(at * SIZE, SIZE) for at in range(3)]
        there = [remote.span(at * SIZE, SIZE) for at in (2, 0, 1)]
        wait(transport.start(Op.WRITE, here, there), WAIT_S)
        before, area[:] = bytes(area), bytes(len(area))
        wait(transport.start(Op.READ, here, there), WAIT_S)
        assert bytes(area) == before
        one = transport.register(bytearray(SIZE))
        wait(transport.start(Op.READ, [one.span(0, SIZE)], [remote.span(0, SIZE)]), WAIT_S)
        assert bytes(one.memory) == before[SIZE : 2 * SIZE]
        transport.deregister(local)

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), min_size=1, max_size=12))
    def test_only_what_is_named_changes(self, spans):
        """Whatever the spans, bytes outside of them stay."""
        transport = MemoryTransport()
        remote, local = transport.register(bytearray(64 + 9)), transport.register(b"\1" * 9)
        there = [remote.span(offset, length) for offset, length in spans]
        here = [local.span(0, length) for _, length in spans]
        wait(transport.start(Op.WRITE, here, there), WAIT_S)
        named = {at for offset, length in spans for at in range(offset, offset + length)}
        assert [at for at in range(73) if remote.memory[at]] == sorted(named)

    def test_lists_that_do_not_pair_are_refused(self, made):
        """Before anything moves."""
        transport, region = made
        remote, local = region(2 * SIZE), transport.register(bytearray(2 * SIZE))
        for here, there in (
            ([local.span(0, 8)], [remote.span(0, 9)]),
            ([local.span(0, 8)], []),
            ([local.span(0, 8), local.span(8, 8)], [remote.span(0, 8)]),
        ):
            with pytest.raises(ValueError, match="pair"):
                transport.start(Op.WRITE, here, there)

    @pytest.mark.parametrize(("offset", "length"), [(0, 9), (8, 1), (-1, 2), (0, -1)])
    def test_a_span_stays_in_its_region(self, offset, length):
        with pytest.raises(ValueError, match="region of 8"):
            MemoryTransport().register(bytearray(8)).span(offset, length)


def test_a_file_that_is_cut_off_fails_the_transfer(tmp_path):
    """The transfer says so when it is polled; nothing hangs."""
    transport = FileTransport(threads=1)
    path = tmp_path / "f"
    path.write_bytes(bytes(4 * SIZE))
    fd = os.open(path, os.O_RDWR)
    remote, local = transport.register_file(fd, 4 * SIZE), transport.register(bytearray(SIZE))
    os.truncate(path, SIZE)
    with pytest.raises(TransferFailed, match="0 of 4096"):
        wait(transport.start(Op.READ, [local.span(0, SIZE)], [remote.span(SIZE, SIZE)]), WAIT_S)
    with pytest.raises(ValueError, match="has 4096 bytes"):
        transport.register_file(fd, 2 * SIZE)
    transport.close()
    after = transport.start(Op.READ, [local.span(0, SIZE)], [remote.span(0, SIZE)])
    with pytest.raises(TransferFailed, match="ended"):
        after.poll()
    os.close(fd)


@pytest.mark.parametrize("kind", [NixlTransport, MooncakeTransport])
def test_an_adapter_without_its_library_says_what_to_install(kind):
    """Their own environments have them (`tests/peers/test_kv_adapters.py`)."""
    with pytest.raises(NotInstalled, match="pip install"):
        kind()


class TestTransportPool:
    """A pool whose blocks lie in a region that only the transport reaches."""

    CLASSES = (SlotClass(SIZE, SLOTS),)

    def pool(self, made) -> TransportPool:
        transport, region = made
        self.remote = region(TransportPool.needed_bytes(self.CLASSES))
        return TransportPool(transport, self.remote, self.CLASSES)

    def test_the_pool_contract(self, made):
        check_contract(self.pool(made))

    def test_the_oldest_end_goes_first(self, made):
        """More than fits: the pool keeps its size."""
        pool = self.pool(made)
        assert pool.put(blocks(6)) == 6
        assert pool.put(blocks(6, first=100)) == 6
        assert pool.stat().blocks == SLOTS
        assert pool.longest_prefix(keys(6, first=100)) == 6

    def test_what_was_changed_behind_its_back_is_a_miss(self, made):
        """Checksums are kept here: another writer in the region is found out."""
        pool, (transport, _) = self.pool(made), made
        pool.put(blocks(3))
        local = transport.register(bytearray(b"x" * self.remote.size))
        everything = [(local.span(0, local.size), self.remote.span(0, local.size))]
        wait(transport.start(Op.WRITE, *map(list, zip(*everything, strict=True))), WAIT_S)
        assert list(pool.get(keys(3)).views) == []

    def test_a_region_that_is_too_small_is_refused(self, made):
        transport, region = made
        with pytest.raises(ValueError, match="the slots take"):
            TransportPool(transport, region(SIZE), self.CLASSES)


def check_contract(pool) -> None:
    """What `starloom.kv.base.Pool` promises, as far as every store can keep it."""
    assert pool.longest_prefix(keys(3)) == 0
    assert list(pool.get(keys(3)).views) == []
    assert pool.put(blocks(4)) == 4
    assert pool.longest_prefix(keys(6)) == 4
    with pool.get(keys(6)) as lease:
        assert isinstance(lease, Lease)
        assert [bytes(view) for view in lease.views] == [data for _, data in blocks(4)]
        assert lease.valid()
        with pytest.raises(TypeError):
            lease.views[0][0] = 0
    lease.release()
    assert not lease.valid()
    assert pool.put(blocks(2) + blocks(5)) == 1, (
        "held ones are not stored again, doubles count once"
    )
    assert pool.put([*blocks(1, first=50), *blocks(3, first=50)[2:]]) == 2
    assert pool.longest_prefix(keys(3, first=50)) == 1, "a hole ends a prefix"
    assert pool.put([(keys(1, first=70)[0], b"")]) == 1
    with pool.get(keys(1, first=70)) as lease:
        assert [bytes(view) for view in lease.views] == [b""]
    with pytest.raises(ValueError, match="32 bytes"):
        pool.longest_prefix([b"short"])
    stat = pool.stat()
    assert (stat.put_blocks, stat.hit_blocks) == (8, 5)
    pool.close()
    with pytest.raises(PoolUnavailable):
        pool.longest_prefix(keys(1))


@pytest.fixture
def redis(tmp_path):
    """Starts redis-server with options; the address of its socket or its port."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    started: list[subprocess.Popen] = []

    def start(*options: str, port: int = 0, size: str = "64mb") -> str:
        path = tmp_path / f"r{len(started)}.sock"
        command = ["redis-server", "--port", str(port), "--unixsocket", str(path), "--save", ""]
        command += ["--dir", str(tmp_path), "--maxmemory", size, *options]
        started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        until = time.monotonic() + WAIT_S
        while not path.exists():
            assert time.monotonic() < until
            time.sleep(0.01)
        return f"unix://{path}"

    yield start
    for each in started:
        each.kill()
        each.wait()


class TestResp:
    """A pool in a real redis-server."""

    def test_the_pool_contract(self, redis):
        check_contract(RespPool(redis(), timeout_s=WAIT_S))

    def test_two_clients_share_and_names_are_walls(self, redis):
        """What one puts another gets; another name sees nothing of it."""
        address = redis()
        one, two, other = RespPool(address), RespPool(address), RespPool(address, name="other")
        assert one.put(blocks(3)) == 3
        assert [bytes(view) for view in two.get(keys(3)).views] == [data for _, data in blocks(3)]
        assert other.longest_prefix(keys(3)) == 0

    def test_large_blocks_and_many(self, redis):
        """Blocks over any buffer on the way, and more than one window of commands."""
        pool = RespPool(redis(size="256mb"), timeout_s=30.0)
        large = [(key, secrets.token_bytes((5 << 20) + at)) for at, key in enumerate(keys(4))]
        assert pool.put(large) == 4
        with pool.get(keys(4)) as lease:
            assert [bytes(view) for view in lease.views] == [data for _, data in large]
        many = [(key, key) for key in keys(1300, first=1000)]
        assert pool.put(many) == 1300
        with pool.get([key for key, _ in many]) as lease:
            assert [bytes(view) for view in lease.views] == [data for _, data in many]

    def test_memory_of_leases_is_bounded(self, redis):
        """No room for copies is a shorter prefix, and released memory is used again."""
        pool = RespPool(redis(), most_bytes=2 << 20)
        assert pool.put([(key, secrets.token_bytes(900 << 10)) for key in keys(4)]) == 4
        lease = pool.get(keys(4))
        assert len(lease.views) == 2
        assert list(pool.get(keys(4)).views) == []
        lease.release()
        lease = pool.get(keys(4))
        array = np.frombuffer(lease.views[1], np.uint8)
        before = array.copy()
        lease.release()
        assert len(pool.get(keys(4)).views) == 2
        assert np.array_equal(array, before), "memory that is still read is not used again"

    def test_a_changed_value_is_a_miss_and_goes(self, redis):
        """Another program wrote over a block, or moved one under another key."""
        from redis import Redis

        address = redis()
        pool = RespPool(address)
        pool.put(blocks(3))
        client = Redis(unix_socket_path=address.removeprefix("unix://"))
        names = [b"starloom:" + key for key in keys(3)]
        value = client.get(names[2])
        client.set(names[1], client.get(names[1])[:-1] + b"?")
        assert len(pool.get(keys(3)).views) == 1
        assert pool.longest_prefix(keys(3)) == 1
        client.set(names[1], value)
        assert len(pool.get(keys(3)).views) == 1

    def test_a_full_server_keeps_what_it_has(self, redis):
        """With `noeviction` the tail is left out, and counted."""
        pool = RespPool(redis("--maxmemory-policy", "noeviction", size="6mb"), timeout_s=WAIT_S)
        data = [(key, secrets.token_bytes(1 << 20)) for key in keys(8)]
        stored = pool.put(data)
        assert 0 < stored < 8
        assert pool.longest_prefix(keys(8)) == stored
        assert pool.stat().rejected_blocks == 8 - stored

    def test_asking_renews_nothing(self, redis):
        """`longest_prefix` leaves a block's idle time in Redis as it is; a get does not."""
        from redis import Redis

        address = redis("--maxmemory-policy", "allkeys-lru")
        pool, client = RespPool(address), Redis(unix_socket_path=address.removeprefix("unix://"))
        pool.put(blocks(1))
        idle = lambda: client.object("idletime", b"starloom:" + keys(1)[0])  # noqa: E731
        time.sleep(2.1)
        assert pool.longest_prefix(keys(1)) == 1
        assert idle() >= 1
        pool.get(keys(1)).release()
        assert idle() == 0

    def test_blocks_end_with_their_time(self, redis):
        pool = RespPool(redis(), ttl_s=0.2)
        pool.put(blocks(2))
        assert pool.longest_prefix(keys(2)) == 2
        time.sleep(0.3)
        assert pool.longest_prefix(keys(2)) == 0

    def test_a_password_is_asked_for_and_never_said(self, redis):
        """A wrong one is a miss that names the server, not the secret."""
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        redis("--requirepass", "geheim", port=port)
        good = RespPool(f"redis://:geheim@127.0.0.1:{port}/3", timeout_s=WAIT_S)
        assert good.put(blocks(2)) == 2
        for address in (f"redis://:falsch@127.0.0.1:{port}", f"redis://127.0.0.1:{port}"):
            with pytest.raises(PoolUnavailable, match=f"127.0.0.1:{port}: ") as error:
                RespPool(address, timeout_s=WAIT_S).put(blocks(2))
            assert "falsch" not in str(error.value)

    def test_a_server_that_is_gone_or_silent_is_a_miss_in_time(self, redis, tmp_path):
        """Killed, then absent, then one that never answers; a new one is found again."""
        with pytest.raises(PoolUnavailable):
            RespPool(f"unix://{tmp_path}/none").longest_prefix(keys(1))
        silent = socket.socket(socket.AF_UNIX)
        silent.bind(str(tmp_path / "silent"))
        silent.listen()
        began = time.monotonic()
        with pytest.raises(PoolUnavailable, match="no answer in time"):
            RespPool(f"unix://{tmp_path}/silent", timeout_s=0.2).longest_prefix(keys(1))
        assert time.monotonic() - began < 2.0
        silent.close()
        now = [0.0]
        pool = RespPool(redis(), timeout_s=WAIT_S, clock=lambda: now[0])
        pool.put(blocks(1))
        pool._link.channel.abort()
        with pytest.raises(PoolUnavailable):
            pool.longest_prefix(keys(1))
        with pytest.raises(PoolUnavailable, match="next try"):
            pool.longest_prefix(keys(1))
        now[0] += 1.0
        assert pool.longest_prefix(keys(1)) == 1

    def test_threads_take_turns(self, redis):
        """Eight threads on one client: every answer belongs to its question."""
        pool = RespPool(redis(), timeout_s=WAIT_S)
        wrong: list[int] = []

        def work(seed: int) -> None:
            mine = blocks(4, first=100 * seed)
            for _ in range(20):
                pool.put(mine)
                with pool.get([key for key, _ in mine]) as lease:
                    if [bytes(view) for view in lease.views] != [data for _, data in mine]:
                        wrong.append(seed)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert wrong == []

    @pytest.mark.parametrize("url", ["http://h", "redis://h:1/x", "127.0.0.1:6379"])
    def test_other_addresses_are_refused(self, url):
        with pytest.raises(ValueError, match="redis://"):
            RespPool(url)

    def test_a_block_over_the_servers_limit_is_refused(self, redis, monkeypatch):
        monkeypatch.setattr("starloom.kv.transport.resp.MAX_BLOCK_BYTES", 100)
        with pytest.raises(BlockTooLarge):
            RespPool(redis()).put([(keys(1)[0], bytes(101))])


def test_garbage_instead_of_a_server_is_a_miss(tmp_path: Path):
    """Whatever comes, nothing but `PoolUnavailable` goes out."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "g"))
    listener.listen()
    for answer in (b"$4\r\nabcd\r\n", b"HTTP/1.1 400\r\n", b"-ERR no\r\n", b":x\r\n", b""):

        def reply(answer: bytes = answer) -> None:
            peer, _ = listener.accept()
            peer.recv(1 << 16)
            peer.sendall(answer)
            peer.close()

        thread = threading.Thread(target=reply)
        thread.start()
        with pytest.raises(PoolUnavailable):
            RespPool(f"unix://{tmp_path}/g", timeout_s=WAIT_S).longest_prefix(keys(1))
        thread.join()
    listener.close()
