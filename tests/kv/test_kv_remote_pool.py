"""Nodes as a pool: what is put comes back, lives where its key says, and is its tenant's alone."""

import json
import random
import socket
import statistics
import subprocess
import threading
import time
import urllib.error
import urllib.request

import numpy as np
import pytest

from starloom.kv import BlockTooLarge, Lease, PoolUnavailable, block_keys, root_key
from starloom.kv.remote import (
    NodeAddress,
    RemotePool,
    Secret,
    Tenants,
    client_context,
    frames,
    server_context,
)
from starloom.kv.remote.auth import tenant_line, write_private
from starloom.kv.remote.frames import Op
from starloom.kv.ssd import SsdTier

ROOT = root_key(fingerprint="w", block_tokens=1, salt="t")
KEYS = block_keys(ROOT, list(range(40)), 1)
BLOCKS = [(key, (key * 100)[: 3000 + at]) for at, key in enumerate(KEYS)]


def held(pool, keys=KEYS) -> list[bytes]:
    with pool.get(keys) as lease:
        assert lease.valid()
        return [bytes(view) for view in lease.views]


def data(count: int) -> list[bytes]:
    return [block for _, block in BLOCKS[:count]]


class TestPoolContract:
    """What `starloom.kv.base.Pool` promises, over a socket to another machine."""

    @pytest.mark.parametrize("address", ["tcp://127.0.0.1:0", ""])
    def test_blocks_come_back_byte_for_byte(self, node_thread, remote, address):
        """Over TCP and over a Unix socket."""
        pool = remote(node_thread(address=address).address)
        assert pool.put(BLOCKS[:9]) == 9
        assert pool.put(BLOCKS[:10]) == 1
        assert pool.longest_prefix(KEYS) == 10
        assert pool.lengths(KEYS) == [len(block) for block in data(10)]
        assert held(pool) == data(10)

    def test_a_miss_a_hole_and_nothing(self, node_thread, remote):
        """An empty lease; what comes behind a hole is not found; empty blocks are blocks."""
        pool = remote(node_thread().address)
        assert held(pool) == []
        assert pool.longest_prefix([]) == 0
        assert pool.put([]) == 0
        pool.put([BLOCKS[0], (KEYS[1], b""), BLOCKS[3]])
        assert held(pool) == [*data(1), b""]

    def test_a_lease_is_a_lease(self, node_thread, remote):
        """Read-only views that end with it; memory that an array still uses is not used again."""
        pool = remote(node_thread().address)
        pool.put(BLOCKS[:1])
        lease = pool.get(KEYS[:1])
        assert isinstance(lease, Lease)
        view = lease.views[0]
        with pytest.raises(TypeError):
            view[0] = 0
        export = np.frombuffer(view, dtype=np.uint8)
        lease.release()
        lease.release()
        assert not lease.valid()
        pool.put([(KEYS[5], bytes(3000))])
        assert held(pool, [KEYS[5]]) == [bytes(3000)]
        assert export.tobytes() == data(1)[0]

    def test_targets_are_filled_where_they_are(self, node_thread, remote):
        """`get_into` tells of each block; a target of another length is a miss."""
        pool = remote(node_thread().address)
        pool.put(BLOCKS[:4])
        told, targets = [], [memoryview(bytearray(len(block))) for block in data(4)]
        assert pool.get_into(KEYS[:4], targets, told.append) == 4
        assert [bytes(target) for target in targets] == data(4)
        assert told == [0, 1, 2, 3]
        targets[1] = memoryview(bytearray(1))
        assert pool.get_into(KEYS[:4], targets) == 0
        assert held(pool) == data(4)

    def test_a_block_that_is_too_large_is_refused(self, node_thread, remote):
        """By name, before it is sent; the pool goes on."""
        pool = remote(node_thread(slots="100x4").address)
        with pytest.raises(BlockTooLarge, match="101 bytes"):
            pool.put([(KEYS[0], bytes(101))])
        assert pool.put([(KEYS[0], bytes(100))]) == 1

    def test_memory_for_received_blocks_is_bounded(self, node_thread, remote):
        """With leases on all of it a get finds less, then nothing; after release all again."""
        pool = remote(node_thread(slots="1000000x8").address, most_bytes=4 << 20)
        blocks = [(key, bytes([at]) * 1000000) for at, key in enumerate(KEYS[:8])]
        assert pool.put(blocks) == 8
        first = pool.get(KEYS[:8])
        assert len(first.views) == 4
        assert held(pool) == []
        first.release()
        assert len(held(pool)) == 4

    def test_what_does_not_fit_evicts_what_was_used_least(self, node_thread, remote):
        """Reading saves a block."""
        node = node_thread(slots="4096x8")
        pool = remote(node.address)
        pool.put(BLOCKS[:8])
        held(pool, KEYS[:4])
        assert pool.put(BLOCKS[10:14]) == 4
        assert pool.longest_prefix(KEYS[:8]) == 4
        assert pool.longest_prefix(KEYS[10:14]) == 4
        stat = node.depot.stat()
        assert (stat.blocks, stat.pinned_blocks, stat.evicted_blocks) == (8, 0, 4)

    def test_many_threads_share_a_pool(self, node_thread, remote):
        """Eight threads, more than there are connections, read and write; all bytes are right."""
        pool = remote(node_thread().address, connections=3)
        wrong = []

        def work(seed: int) -> None:
            rng = random.Random(seed)
            for _ in range(15):
                count = rng.randrange(1, 30)
                pool.put(BLOCKS[:count])
                got = held(pool, KEYS[:count])
                if got != data(len(got)):  # fewer where another thread's put is on its way
                    wrong.append(len(got))

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        pool.put(BLOCKS[:30])
        assert held(pool, KEYS[:30]) == data(30)

    def test_a_slow_node_is_asked_for_what_can_come(self, node_thread, remote):
        """At 100 bytes a second nothing is asked; each time a little more, until it is tried."""
        pool = remote(node_thread().address)
        pool.put(BLOCKS[:1])
        member = next(iter(pool._members))
        member.bytes_per_s = 100.0
        found = [len(held(pool, KEYS[:1])) for _ in range(20)]
        assert found[0] == 0
        assert found == sorted(found)
        assert found[-1] == 1

    def test_a_call_without_time_is_no_fault_of_the_node(self, node_thread, remote):
        """It ends at once, and the node is asked by the next one."""
        pool = remote(node_thread().address, timeout_s=0.0)
        with pytest.raises(PoolUnavailable, match="no time is left"):
            pool.get(KEYS)
        assert pool.ups() == [True]

    def test_a_block_without_a_slot_may_be_skipped(self, node_thread, remote):
        """The others are stored."""
        pool = remote(node_thread(slots="100x4").address)
        blocks = [(KEYS[0], b"a"), (KEYS[1], bytes(101)), (KEYS[2], b"c")]
        assert pool.put(blocks, skip_large=True) == 2
        assert pool.put([(KEYS[1], bytes(101))], skip_large=True) == 0

    def test_a_closed_pool_says_so(self, node_thread, remote):
        """And a lease that is held stays readable."""
        pool = remote(node_thread().address)
        pool.put(BLOCKS[:1])
        lease = pool.get(KEYS[:1])
        pool.close()
        assert bytes(lease.views[0]) == data(1)[0]
        with pytest.raises(PoolUnavailable, match="closed"):
            pool.get(KEYS)


class TestManyNodes:
    """Blocks find their homes without anybody who knows them all."""

    def test_every_client_finds_what_another_put(self, node_thread, remote):
        """Three nodes, listed in another order; each has a part."""
        made = [node_thread(name) for name in "abc"]
        nodes = [node.address for node in made]
        assert remote(*nodes).put(BLOCKS) == 40
        assert all(0 < node.depot.stat().blocks < 40 for node in made)
        assert held(remote(*reversed(nodes))) == data(40)

    def test_a_segment_lives_on_one_node(self, node_thread, remote):
        """Keys with one tag: one node has all of it, the others nothing; a get asks it alone."""
        nodes = [node_thread(name) for name in "abc"]
        pool = remote(*(node.address for node in nodes))
        for chain in range(12):
            keys = [chain.to_bytes(8, "big") + key[8:] for key in KEYS[:5]]
            assert pool.put([(key, b"x") for key in keys]) == 5
            lengths = [len(remote(node.address).lengths(keys)) for node in nodes]
            assert sorted(lengths) == [0, 0, 5]

    def test_the_loss_of_a_node_is_misses_alone(self, node_thread, remote):
        """What the others hold is served; what is put anew finds another home, and is found."""
        nodes = [node_thread(name) for name in "ab"]
        pool = remote(*(node.address for node in nodes), timeout_s=1.0)
        chains = [[bytes([n]) * 8 + key[8:] for key in KEYS[:3]] for n in range(16)]
        for chain in chains:
            pool.put([(key, key) for key in chain])
        nodes[0].stop()
        found = [_prefix(pool, chain) for chain in chains]
        assert set(found) == {0, 3}
        assert [pool.put([(key, key) for key in chain]) for chain in chains] == [
            3 - count for count in found
        ]
        assert [pool.longest_prefix(chain) for chain in chains] == [3] * 16

    def test_a_node_comes_and_goes_by_heartbeat(self, node_thread, remote):
        """Dead: out within a beat. Back at the same address: in again, without a call from us."""
        node = node_thread()
        pool = remote(node.address, beat_s=0.05)
        until(lambda: pool.nodes()[0].up and pool.nodes()[0].rtt_s > 0)
        node.stop()
        until(lambda: not pool.nodes()[0].up)
        began = time.monotonic()
        with pytest.raises(PoolUnavailable, match="no node is up"):
            pool.get(KEYS)
        assert time.monotonic() - began < 0.05
        node_thread()
        until(lambda: pool.nodes()[0].up)
        assert pool.put(BLOCKS[:2]) == 2

    def test_a_node_that_leaves_is_left_in_time(self, node_thread, remote):
        """It says so in its heartbeats, and answers still."""
        node = node_thread()
        pool = remote(node.address, beat_s=0.05)
        until(lambda: pool.nodes()[0].rtt_s > 0)
        node.leave()
        until(lambda: not pool.nodes()[0].up)
        assert "leave" in pool.nodes()[0].why
        assert remote(node.address).longest_prefix(KEYS) == 0

    def test_the_nodes_file_is_read_when_it_changes(self, node_thread, remote, tmp_path):
        """One node, then two; a file that is none changes nothing."""
        path = tmp_path / "nodes.yaml"
        a, b = node_thread("a").address, node_thread("b").address
        path.write_text(f"- {{name: a, address: '{a.address}', weight: 2}}\n")
        pool = remote(nodes_file=path, beat_s=0.05)
        assert [(it.name, it.weight) for it in pool.nodes()] == [("a", 2.0)]
        path.write_text("- {name: a, addres: x}\n")
        time.sleep(0.2)
        assert len(pool.nodes()) == 1
        path.write_text(json.dumps([{"name": it.name, "address": it.address} for it in (a, b)]))
        until(lambda: len(pool.nodes()) == 2)
        assert [it.weight for it in pool.nodes()] == [1.0, 1.0]

    def test_nodes_that_cannot_be_are_refused(self, remote, tmp_path):
        """Two of one name; a file that is not there."""
        one = NodeAddress("a", "tcp://h:1")
        with pytest.raises(ValueError, match="name of its own"):
            remote(one, one)
        with pytest.raises(ValueError, match="cannot be read"):
            remote(nodes_file=tmp_path / "none")


class TestTenants:
    """Who asks is known, and sees its own alone."""

    @pytest.fixture
    def secrets(self, tmp_path) -> dict[str, Secret]:
        made = {name: Secret.new(name) for name in ("red", "blue")}
        lines = [tenant_line(name, secret.verifier()) for name, secret in made.items()]
        write_private(tmp_path / "tenants", "\n".join(lines))
        return made

    @pytest.fixture
    def node(self, node_thread, tmp_path, secrets):
        return node_thread(tenants=Tenants(tmp_path / "tenants"))

    def test_no_tenant_reads_or_probes_anothers_blocks(self, node, remote, secrets):
        """Blue knows red's keys and finds nothing; puts its own bytes there; each has its own."""
        red, blue = (remote(node.address, secret=secrets[it]) for it in ("red", "blue"))
        red.put(BLOCKS[:5])
        assert blue.longest_prefix(KEYS) == 0
        assert held(blue) == []
        assert blue.put([(key, b"blue") for key in KEYS[:3]]) == 3
        assert held(blue) == [b"blue"] * 3
        assert held(red) == data(5)

    def test_the_time_of_an_answer_tells_nothing(self, node, remote, secrets):
        """Asking for what another tenant has takes as long as asking for what nobody has."""
        red, blue = (remote(node.address, secret=secrets[it]) for it in ("red", "blue"))
        red.put(BLOCKS[:20])
        absent = block_keys(root_key(fingerprint="v", block_tokens=1, salt=""), range(20), 1)
        rng, times = random.Random(0), ([], [])
        for _ in range(600):
            theirs = rng.random() < 0.5
            began = time.perf_counter()
            assert blue.longest_prefix(KEYS[:20] if theirs else absent) == 0
            times[theirs].append(time.perf_counter() - began)
        # The fastest fifth: what a busy machine adds is in the rest.
        fast = [statistics.mean(sorted(each)[: len(each) // 5]) for each in times]
        assert 0.8 < fast[0] / fast[1] < 1.25

    def test_the_index_is_never_asked_for_anothers_key(self, node, remote, secrets, monkeypatch):
        """So the time cannot tell: keys that blue's questions become are disjoint from red's."""
        asked: list[set[bytes]] = [set(), set()]
        lengths = type(node.depot).lengths
        for at, name in enumerate(("red", "blue")):

            def spy(depot, keys, at=at):
                asked[at].update(keys)
                return lengths(depot, keys)

            monkeypatch.setattr(type(node.depot), "lengths", spy)
            assert remote(node.address, secret=secrets[name]).longest_prefix(KEYS) == 0
        assert len(asked[0]) == len(asked[1]) == 40
        assert asked[0].isdisjoint(asked[1])
        assert asked[0].isdisjoint(KEYS)

    @pytest.mark.parametrize("who", ["red", "green", "open"])
    def test_a_wrong_key_is_refused(self, node, remote, who):
        """Also where there is no such tenant: with the same words."""
        pool = remote(node.address, secret=Secret.new(who))
        with pytest.raises(PoolUnavailable, match="no such tenant with such a key"):
            pool.get(KEYS)

    def test_no_key_goes_over_the_wire(self, node, remote, secrets, middle):
        """Neither the key nor what a node keeps of it, in either direction."""
        wire = middle(node.address)
        pool = remote(wire.node, secret=secrets["red"])
        pool.put(BLOCKS[:1])
        seen = bytes(wire.sent + wire.answered)
        verifier = secrets["red"].verifier()
        assert BLOCKS[0][1] in seen
        for secret in (secrets["red"].key, verifier.stored, verifier.server_key):
            assert secret not in seen
            assert secret.hex().encode() not in seen

    def test_what_was_heard_cannot_be_said_again(self, node, remote, secrets, middle):
        """A proof is good for one conversation: played again it is refused."""
        wire = middle(node.address)
        remote(wire.node, secret=secrets["red"]).put(BLOCKS[:1])
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(node.address.address.removeprefix("unix://"))
            sock.sendall(wire.sent[:128])  # HELLO and PROOF
            answers = b""
            while piece := sock.recv(4096):
                answers += piece
        assert b"no such tenant" in answers

    def test_a_false_node_gets_no_blocks(self, node_thread, remote, secrets):
        """One that does not know the key cannot prove that it does, though it admits everybody."""
        pool = remote(node_thread("b").address, secret=secrets["red"])
        with pytest.raises(PoolUnavailable, match="does not prove"):
            pool.put(BLOCKS)

    def test_a_key_that_is_taken_back_ends_its_connections(
        self, node, remote, secrets, tmp_path, monkeypatch
    ):
        """A new key works beside the old one; the old one is gone with its line."""
        red = remote(node.address, secret=secrets["red"], timeout_s=1.0)
        red.put(BLOCKS[:1])
        new = Secret.new("red")
        path = tmp_path / "tenants"
        path.write_text(tenant_line("red", new.verifier()))
        until(lambda: not _works(red))
        assert remote(node.address, secret=new).longest_prefix(KEYS) == 0
        path.write_text("nonsense")
        time.sleep(1.2)
        assert _works(remote(node.address, secret=new))

    def test_counters_are_a_tenants_own(self, node, remote, secrets):
        """Red sees what red did; that there is anybody else cannot be seen."""
        red, blue = (remote(node.address, secret=secrets[it]) for it in ("red", "blue"))
        red.put(BLOCKS[:5])
        stat = blue.stats()["a"]
        assert stat.tenant.put_blocks == 0
        assert (stat.tenants, stat.pool, stat.connections) == ({}, None, 0)
        assert red.stats()["a"].tenant.put_blocks == 5
        assert node.stat(None).tenants["red"].put_blocks == 5

    def test_a_node_that_others_can_reach_wants_tenants(self, node_thread):
        """Refused before it listens; loopback and Unix sockets may go without."""
        with pytest.raises(ValueError, match="name a tenants file"):
            node_thread(address="tcp://0.0.0.0:0")


def test_tls_hides_what_goes_over_the_wire(node_thread, remote, tmp_path):
    """With the right certificate blocks come back; with another one nobody talks."""
    for name in ("node", "other"):
        subprocess.run(
            [
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:P-256",
                "-nodes",
                "-days",
                "1",
                "-subj",
                "/CN=n",
                "-addext",
                "subjectAltName=IP:127.0.0.1",
                "-keyout",
                tmp_path / f"{name}.key",
                "-out",
                tmp_path / f"{name}.pem",
            ],
            check=True,
            capture_output=True,
        )
        (tmp_path / f"{name}.key").chmod(0o600)
    tls = server_context(tmp_path / "node.pem", tmp_path / "node.key")
    node = node_thread(address="tls://127.0.0.1:0", tls=tls)
    pool = remote(node.address, tls=client_context(tmp_path / "node.pem"))
    large = [(KEYS[0], random.Random(0).randbytes(4096))]
    assert pool.put(large + BLOCKS[1:9]) == 9
    assert held(pool, KEYS[:9]) == [large[0][1], *data(9)[1:]]
    stranger = remote(node.address, tls=client_context(tmp_path / "other.pem"))
    with pytest.raises(PoolUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
        stranger.get(KEYS)
    with pytest.raises(PoolUnavailable, match="no certificates are named"):
        remote(node.address).get(KEYS)
    plain = node.address.address.replace("tls", "tcp")
    with pytest.raises(PoolUnavailable):
        remote(NodeAddress("a", plain), timeout_s=1.0).get(KEYS)
    assert held(pool, KEYS[:1]) == [large[0][1]]


def test_questions_may_follow_each_other(node_thread, remote):
    """Three in one packet are answered in their order."""
    node = node_thread()
    pool = remote(node.address)
    pool.put(BLOCKS[:3])
    member = next(iter(pool._members))
    link = member.connect(pool._deadline())
    body = frames.pack_get(1 << 20, KEYS[:2])
    asked = [(Op.LOOKUP, b"".join(KEYS)), (Op.GET, body), (Op.PING, b"")]
    wire = b"".join(frames.frame(op, 90 + at, it) for at, (op, it) in enumerate(asked))
    link._channel.send([wire], pool._deadline())
    link._request = 90
    assert len(link._answer(Op.LOOKUP, pool._deadline())) == 3 * 8
    link._request = 91
    rows = frames.unpack_rows(link._answer(Op.GET, pool._deadline()), 2)
    assert link._channel.receive(sum(row.length for row in rows), pool._deadline()) == b"".join(
        data(2)
    )
    link._request = 92
    assert link._answer(Op.PING, pool._deadline()) == b"\0"
    link.close()


class TestOperator:
    """What a node tells on loopback."""

    def test_metrics_health_and_stat(self, node_thread, remote):
        """Hits by tier and tenant, bytes, latencies, what was written for nothing."""
        node = node_thread(slots="4096x4", pages_port=0)
        pool = remote(node.address)
        pool.put(BLOCKS[:4])
        held(pool, KEYS[:2])
        held(pool, KEYS[20:22])
        pool.put(BLOCKS[10:14])
        page = _page(node, "/metrics")
        for line in (
            'starloom_kv_hit_blocks_total{tenant="open",tier="memory"} 2.0',
            'starloom_kv_missed_blocks_total{tenant="open"} 2.0',
            'starloom_kv_put_blocks_total{tenant="open"} 8.0',
            'starloom_kv_never_read_blocks_total{tenant="open"} 2.0',
            f'starloom_kv_got_bytes_total{{tenant="open"}} {float(sum(map(len, data(2))))}',
            'starloom_kv_seconds_count{op="get"} 2.0',
            "starloom_kv_healthy 1.0",
            "starloom_kv_blocks 4.0",
        ):
            assert line in page
        assert json.loads(_page(node, "/health")) == {"state": "well", "why": ""}
        assert json.loads(_page(node, "/stat"))["pool"]["evicted_blocks"] == 4
        with pytest.raises(urllib.error.HTTPError, match="404"):
            _page(node, "/")
        foreign = {"Host": f"evil.example:{node.pages_port}"}
        asked = urllib.request.Request(f"http://127.0.0.1:{node.pages_port}/stat", headers=foreign)
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(asked, timeout=5)

    def test_disk_below_memory(self, node_thread, remote, tmp_path):
        """What memory evicts comes back from disk, with the right bytes and counted there."""
        tier = SsdTier(tmp_path / "ssd", [(4096, 64)])
        node = node_thread(slots="4096x8", ssd=tier, ssd_wait_s=5.0)
        pool = remote(node.address)
        for at in range(16):
            pool.put(BLOCKS[at : at + 1])
            until(lambda: node.depot.stat().demoted_blocks >= at - 6)  # noqa: B023 - called now
        assert pool.longest_prefix(KEYS[:4]) == 4
        assert held(pool, KEYS[:4]) == data(4)
        assert held(pool, KEYS[:4]) == data(4)
        counts = node.stat(None).tenants["open"]
        assert (counts.ssd_hit_blocks, counts.memory_hit_blocks) == (4, 4)

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_a_thread_that_dies_is_told_on_health(self, node_thread, tmp_path):
        """The one that moves blocks between memory and disk does not go in silence."""
        tier = SsdTier(tmp_path / "ssd", [(4096, 64)])
        node = node_thread(ssd=tier, pages_port=0)
        assert json.loads(_page(node, "/health"))["state"] == "well"

        def broken() -> None:
            raise RuntimeError("a fault of ours")

        node.depot._tiers.tend = broken
        until(lambda: not node.depot._tender.is_alive())
        with pytest.raises(urllib.error.HTTPError) as refused:
            _page(node, "/health")
        assert refused.value.code == 503
        assert "between memory and disk has died" in json.loads(refused.value.read())["why"]
        assert "starloom_kv_healthy 0.0" in _page(node, "/metrics")

    def test_never_read_is_counted_on_disk_too(self, node_thread, remote, tmp_path):
        """A block that leaves the disk unread was written for nothing."""
        tier = SsdTier(tmp_path / "ssd", [(4096, 4)])
        node = node_thread(slots="4096x4", ssd=tier)
        pool = remote(node.address)
        for start in range(0, 40, 2):
            pool.put(BLOCKS[start : start + 2])
            time.sleep(0.01)
        node.depot.sweep()
        counts = node.stat(None).tenants["open"]
        kept = sum(bool(pool.longest_prefix([key])) for key in KEYS)
        assert kept <= 8
        assert counts.never_read_blocks == 40 - kept


def _page(node, path: str) -> str:
    url = f"http://127.0.0.1:{node.pages_port}{path}"
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()


def _prefix(pool: RemotePool, keys: list[bytes]) -> int:
    try:
        return pool.longest_prefix(keys)
    except PoolUnavailable:
        return 0


def _works(pool: RemotePool) -> bool:
    try:
        pool.longest_prefix(KEYS)
    except PoolUnavailable:
        return False
    return True


def until(condition, limit_s: float = 5.0) -> None:
    stop = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < stop, "it did not happen in time"
        time.sleep(0.01)
