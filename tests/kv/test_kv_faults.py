"""Peers that die, stall or talk nonsense: what a pool and its clients do then."""

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time

import pytest

from starloom.kv import PoolClient, PoolUnavailable, SlotClass, block_keys, protocol, root_key
from starloom.kv.protocol import Op
from starloom.kv.server import Server, main

ROOT = root_key(fingerprint="w", block_tokens=1, salt="t")
KEYS = block_keys(ROOT, list(range(20)), 1)
BLOCKS = [(key, key * 100) for key in KEYS]
SLOTS = 8

CLIENT = """
import sys, time
from pathlib import Path
from starloom.kv import PoolClient, block_keys, root_key
pool = PoolClient(Path(sys.argv[1]), 5.0)
keys = block_keys(root_key(fingerprint="w", block_tokens=1, salt="t"), list(range(20)), 1)
"""


def run_client(path, code: str) -> subprocess.Popen:
    """A client process that runs `code`; it has said `ready` when this returns."""
    code = CLIENT + code + "\nprint('ready', flush=True)\nsys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def end(process: subprocess.Popen) -> None:
    process.kill()
    process.communicate()


def until(condition, limit_s: float = 5.0) -> None:
    stop = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < stop, "it did not happen in time"
        time.sleep(0.01)


def greet(path) -> socket.socket:
    """A raw connection that has said hello."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(5)
    sock.connect(str(path))
    sock.sendall(protocol.frame(Op.HELLO, 1, protocol.pack_hello()))
    _, fds, _, _ = socket.recv_fds(sock, 4096, 4)
    for fd in fds:
        os.close(fd)
    assert len(fds) == 1
    return sock


def reserve_all(sock: socket.socket) -> None:
    """Reserve every slot and send a part of the first block."""
    wants = [(bytes([number]) * 32, 4096) for number in range(SLOTS)]
    sock.sendall(protocol.frame(Op.PUT, 2, protocol.pack_wants(wants, 1 << 30)))
    assert len(sock.recv(4096)) == protocol.HEADER_BYTES + 4 * SLOTS
    sock.sendall(b"x" * 1000)


def test_two_processes_share_blocks(pool_process):
    """What one process puts, another reads."""
    server = pool_process()
    writer = run_client(server.path, "pool.put([(key, key * 100) for key in keys[:4]])")
    pool = PoolClient(server.path, 5.0)
    with pool.get(KEYS) as lease:
        assert [bytes(view) for view in lease.views] == [data for _, data in BLOCKS[:4]]
    pool.close()
    end(writer)


def test_a_client_killed_while_it_reads_gives_its_pins_back(pool_process):
    """A kill -9 in the middle of a lease: every slot can be evicted again."""
    server = pool_process()
    pool = PoolClient(server.path, 5.0)
    assert pool.put(BLOCKS[:SLOTS]) == SLOTS
    reader = run_client(server.path, "lease = pool.get(keys)")
    assert pool.stat().pinned_blocks == SLOTS
    assert pool.put(BLOCKS[SLOTS : SLOTS + 1]) == 0
    end(reader)
    until(lambda: pool.stat().pinned_blocks == 0)
    assert pool.put(BLOCKS[SLOTS:16]) == SLOTS
    pool.close()


def test_a_client_killed_while_it_writes_gives_its_slots_back(pool_process):
    """A kill -9 in the middle of a block: it never appears, and its slots are free again."""
    server = pool_process()
    code = """
from starloom.kv import protocol, wire
w = wire.Wire.open(Path(sys.argv[1]), wire.Deadline(time.monotonic, 5))
wants = [(key, 4096) for key in keys[:8]]
w._call(protocol.Op.PUT, protocol.pack_wants(wants, 1 << 30), wire.Deadline(time.monotonic, 5))
w._channel.sock.sendall(b"x" * 1000)
"""
    writer = run_client(server.path, code)
    pool = PoolClient(server.path, 5.0)
    assert pool.put(BLOCKS[10:11]) == 0
    end(writer)
    until(lambda: pool.put(BLOCKS[10 : 10 + SLOTS]) == SLOTS)
    assert pool.longest_prefix(KEYS) == 0
    pool.close()


def test_a_peer_that_stalls_in_a_frame_is_dropped(pool_thread):
    """Its reservations come back after the time limit; one that is silent between frames stays."""
    path = pool_thread(stall_s=0.3)
    pool = PoolClient(path, 5.0)
    quiet, stalling = greet(path), greet(path)
    reserve_all(stalling)
    assert pool.put(BLOCKS[:1]) == 0
    until(lambda: pool.put(BLOCKS[:1]) == 1)
    assert stalling.recv(1) == b""
    quiet.sendall(protocol.frame(Op.STAT, 2, b""))
    assert quiet.recv(9)[4] == Op.STAT | 0x80
    for sock in (quiet, stalling):
        sock.close()
    pool.close()


def test_a_peer_that_trickles_is_dropped_too(pool_thread):
    """The limit is on the step as a whole: a byte now and then does not renew it."""
    path = pool_thread(stall_s=0.3)
    sock = greet(path)
    reserve_all(sock)
    began = time.monotonic()
    until(lambda: not takes_a_byte(sock))
    assert time.monotonic() - began < 2
    sock.close()


def test_a_peer_that_never_says_hello_is_dropped(pool_thread):
    """A connection that says nothing at all does not stay."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(str(pool_thread(stall_s=0.2)))
        assert sock.recv(1) == b""


def test_nonsense_closes_that_connection_only(pool_thread):
    """The peer is told why, and everybody else goes on, lease included."""
    path = pool_thread()
    pool = PoolClient(path, 5.0)
    pool.put(BLOCKS[:2])
    lease = pool.get(KEYS)
    for data in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 50, bytes(50), os.urandom(300)):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(str(path))
            sock.sendall(data)
            told = sock.recv(4096)
            assert told[4] == Op.ERROR | 0x80
    with greet(path) as sock:
        sock.sendall(protocol.frame(Op.GET, 3, b"odd"))
        assert b"no list of up to" in sock.recv(4096)
    assert pool.stat().connections == 1
    assert lease.valid()
    pool.close()


def test_a_killed_server_is_a_miss_and_comes_back(pool_process):
    """A kill -9: leases stay readable and right, calls raise; after a restart they work, empty."""
    server = pool_process()
    pool = PoolClient(server.path, 1.0)
    pool.put(BLOCKS[:3])
    lease = pool.get(KEYS)
    server.kill()
    with pytest.raises(PoolUnavailable):
        pool.get(KEYS)
    assert lease.valid()
    assert [bytes(view) for view in lease.views] == [data for _, data in BLOCKS[:3]]
    began = time.monotonic()
    with pytest.raises(PoolUnavailable, match="next try"):
        pool.get(KEYS)
    assert time.monotonic() - began < 0.05
    server.start()
    until(lambda: answers(pool))
    assert pool.longest_prefix(KEYS) == 0
    assert pool.put(BLOCKS[:3]) == 3
    assert lease.valid()
    lease.release()
    assert pool.stat().connections == 1
    pool.close()


def takes_a_byte(sock: socket.socket) -> bool:
    try:
        sock.sendall(b"x")
    except (BrokenPipeError, ConnectionResetError):
        return False
    return True


def answers(pool: PoolClient) -> bool:
    try:
        pool.stat()
    except PoolUnavailable:
        return False
    return True


def test_a_stopped_server_hangs_nobody(pool_process):
    """SIGSTOP: a call fails within its limit, the next ones at once; SIGCONT: it works again."""
    server = pool_process()
    pool = PoolClient(server.path, 0.2)
    pool.put(BLOCKS[:3])
    server.send(signal.SIGSTOP)
    for call in (lambda: pool.get(KEYS), pool.stat, lambda: pool.put(BLOCKS)):
        began = time.monotonic()
        with pytest.raises(PoolUnavailable):
            call()
        assert time.monotonic() - began < 0.4
    server.send(signal.SIGCONT)
    until(lambda: answers(pool))
    assert pool.longest_prefix(KEYS) == 3
    until(lambda: pool.stat().connections == 1)
    pool.close()


def test_a_lease_that_the_server_gave_up_is_not_valid_once_its_slot_is_reused(pool_process):
    """We timed out, the server lives: views may change under us, and `valid` says so."""
    server = pool_process()
    pool = PoolClient(server.path, 0.2)
    pool.put(BLOCKS[:2])
    lease = pool.get(KEYS[:2])
    server.send(signal.SIGSTOP)
    with pytest.raises(PoolUnavailable):
        pool.stat()
    server.send(signal.SIGCONT)
    until(lambda: answers(pool))
    assert lease.valid()
    assert bytes(lease.views[0]) == BLOCKS[0][1]
    assert pool.put([(key, b"z" * 3200) for key in KEYS[10 : 10 + SLOTS]]) == SLOTS
    assert bytes(lease.views[0]) != BLOCKS[0][1]
    assert not lease.valid()
    lease.release()
    pool.close()


def test_a_late_answer_is_never_taken_for_the_next_one(pool_process):
    """After a time-out the connection is a new one: answers belong to their questions."""
    server = pool_process()
    pool = PoolClient(server.path, 0.2)
    pool.put(BLOCKS[:5])
    for count in (1, 2, 3):
        server.send(signal.SIGSTOP)
        with pytest.raises(PoolUnavailable):
            pool.longest_prefix(KEYS[:5])
        server.send(signal.SIGCONT)
        until(lambda: answers(pool))
        assert pool.longest_prefix(KEYS[:count]) == count
    pool.close()


def test_waiting_for_another_thread_is_bounded_too(pool_process):
    """Two threads on a stopped server: both fail within the limit, not one after the other."""
    server = pool_process()
    pool = PoolClient(server.path, 0.3)
    pool.stat()
    server.send(signal.SIGSTOP)
    began = time.monotonic()
    threads = [threading.Thread(target=answers, args=(pool,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - began < 0.8
    pool.close()


def test_no_server_is_unavailable_at_once(tmp_path):
    """A path where nobody listens costs no waiting."""
    pool = PoolClient(tmp_path / "none.sock", 5.0)
    began = time.monotonic()
    with pytest.raises(PoolUnavailable, match=r"none\.sock"):
        pool.get(KEYS)
    assert time.monotonic() - began < 0.5


def test_sigterm_ends_the_server_cleanly(pool_process):
    """Exit code 0, and the socket's file is gone."""
    server = pool_process()
    server.send(signal.SIGTERM)
    assert server.process.wait(10) == 0
    assert not server.path.exists()


def test_the_server_ends_with_its_supervisor(tmp_path):
    """When the write end of the lifeline closes, the pool goes."""
    read, write = os.pipe()
    path = tmp_path / "pool.sock"
    process = subprocess.Popen(
        [sys.executable, "-m", "starloom.kv.server", "--socket", str(path), "--slots", "64x2"],
        env={**os.environ, "STARLOOM_LIFELINE_FD": str(read)},
        pass_fds=[read],
        stderr=subprocess.DEVNULL,
    )
    os.close(read)
    until(path.exists)
    os.close(write)
    assert process.wait(10) == 0


def test_the_socket_is_for_its_owner_and_takes_a_dead_ones_place(tmp_path, pool_process):
    """Mode 0600; a file that a killed server left is replaced; a living pool or a file is not."""
    server = pool_process()
    assert stat.S_IMODE(server.path.stat().st_mode) == 0o600
    with pytest.raises(OSError, match="another pool answers"):
        Server(server.path, [SlotClass(64, 1)])
    server.kill()
    assert server.path.exists()
    server.start()
    assert PoolClient(server.path, 5.0).stat().blocks == 0
    plain = tmp_path / "notes.txt"
    plain.write_text("mine")
    assert main(["--socket", str(plain), "--slots", "64x1"]) == 1
    assert plain.read_text() == "mine"


def test_only_the_same_user_is_served(pool_thread, monkeypatch):
    """A peer with another uid is closed before it is heard, and a client refuses such a server."""
    path = pool_thread()
    monkeypatch.setattr("starloom.kv.server._peer_uid", lambda sock: os.getuid() + 1)
    with pytest.raises(PoolUnavailable):
        PoolClient(path, 5.0).stat()
    monkeypatch.undo()
    monkeypatch.setattr("starloom.kv.wire.os.getuid", lambda: 4242)
    with pytest.raises(PoolUnavailable, match="another user"):
        PoolClient(path, 5.0).stat()
