"""Prefill on one engine, decode on another: same answers, blocks freed, nothing that hangs."""

import asyncio
import contextlib
import socket
import tempfile
import threading
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.serve.base import Handover
from starloom.serve.engines import RemoteEngine
from starloom.serve.engines.handover import Desk, listen_tcp, listen_unix
from starloom.serve.engines.handover.base import First, Gone, HandoverError, Piece, Waiting, Want
from starloom.serve.engines.handover.channel import Channel
from starloom.serve.engines.handover.shm import SLOTS, ShmReceiver, ShmSender
from starloom.serve.engines.handover.tcp import TcpReceiver, TcpSender
from starloom.serve.engines.sampling import uniform
from starloom.serve.errors import Unavailable
from starloom.serve.models import ModelFiles
from starloom.serve.rundir import RunDir
from starloom.serve.tiny import model_path

from engine_fixtures import (
    core_of,
    emulated,
    make_site,
    request,
    run_all,
    run_async,
    running,
    text_of,
    until,
)


class Engines:
    """A prefill and a decode engine, stepped by the test, with real sockets between them."""

    def __init__(self, folder: Path, make, kind: str = "unix", *, block_tokens: int = 4, **options):
        self.cores, self.desks = [], []
        settings = {"block_tokens": block_tokens, **options.pop("core", {})}
        for name in "pd":
            executor = make(name)
            if kind == "unix":
                listener, address = listen_unix(folder / f"{name}.sock")
            else:
                listener, address = listen_tcp("127.0.0.1", 0)
            desk = Desk(executor, "layout", block_tokens, listener, address, **options)
            self.desks.append(desk)
            self.cores.append(core_of(executor, desk=desk, **settings))
        self.prefill, self.decode = self.cores
        self.deltas: dict[str, list] = {}
        self.prefilled: dict[str, list] = {}

    def submit(self, one, name: str = "", *, prefill: bool = True, source: str | None = None):
        name = name or f"transfer-{one.id}"
        if prefill:
            half = msgspec.structs.replace(one, handover=Handover(name))
            self.prefilled[one.id] = list(filter(None, [self.prefill.submit(half)]))
        source = self.desks[0].address if source is None else source
        half = msgspec.structs.replace(one, handover=Handover(name, source))
        self.deltas[one.id] = list(filter(None, [self.decode.submit(half)]))

    def turn(self) -> None:
        """What both engines' threads do once."""
        for core, deltas in ((self.prefill, self.prefilled), (self.decode, self.deltas)):
            found = core.settle()
            if not core.waits:
                found += core.step()
            core.check_integrity()
            for delta in found:
                deltas[delta.id].append(delta)
                if core is self.prefill and delta.finish == "cancelled":  # as the gateway does
                    self.decode.forgo(f"transfer-{delta.id}")

    def run(self, until=None, seconds: float = 20.0) -> None:
        """Until `until()` holds, by default until nothing is left."""
        holds = until or (lambda: all(core.idle for core in self.cores))
        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, "it never came about"
            self.turn()
            time.sleep(0.0005)

    def answer(self, one) -> list:
        self.submit(one)
        self.run()
        return self.deltas[one.id]

    def nothing_left(self) -> None:
        for core in self.cores:
            assert core.idle
            assert core.report().kv_blocks_used == 0
            assert not core.desk.busy

    def close(self) -> None:
        for core in self.cores:
            core.close()


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory(prefix="kv-") as path:
        yield Path(path)


@pytest.fixture(params=["unix", "tcp"])
def engines(request, folder):
    made = Engines(folder, lambda _: emulated(), request.param)
    yield made
    made.close()


def test_an_answer_is_that_of_one_engine_alone(engines):
    """Every length around block and chunk ends; each block ends up with the same contents."""
    for count in (1, 3, 4, 5, 15, 16, 17, 33, 61):
        one = request(f"r{count}", range(count), max_tokens=9, salt=f"s{count}")
        alone = core_of(emulated())
        right = run_all(alone, one)[one.id]
        deltas = engines.answer(one)
        assert text_of(deltas) == text_of(right)
        assert deltas[-1].usage == right[-1].usage
        assert [d.finish for d in engines.prefilled[one.id]] == [None, "stop"]
        keys = [key for key in one.keys if engines.decode.export_blocks([key])]
        assert keys == one.keys
        assert engines.decode.export_blocks(keys) == alone.export_blocks(keys)
    engines.nothing_left()


def test_the_decode_engine_computes_no_prompt(engines):
    one = request("a", range(60), max_tokens=5)
    assert len(engines.answer(one)) == 5
    assert engines.decode.report().steps_total == 4  # the first token came with the KV
    assert engines.decode.report().generated_tokens_total == 5
    assert engines.decode.report().fetched_total == 1
    assert engines.prefill.report().generated_tokens_total == 0
    assert engines.prefill.report().steps_total == 4  # chunks of 16


def test_what_the_decode_engine_holds_is_not_sent_again(engines, monkeypatch):
    """The second turn of a chat: only the new blocks go, and usage counts the reused ones."""
    sent = []
    executor = engines.prefill.executor
    read = executor.read_parts
    monkeypatch.setattr(executor, "read_parts", lambda *a: (sent.append(len(a[1])), read(*a)))
    engines.answer(request("a", range(40), max_tokens=1))
    assert sum(sent) == 10
    sent.clear()
    deltas = engines.answer(request("b", range(60), max_tokens=2))
    assert sum(sent) == 5
    assert deltas[-1].usage.cached_tokens == 40


def test_what_the_prefill_engine_holds_counts_as_reused(engines):
    run_all(engines.prefill, request("warm", range(40), max_tokens=1))
    deltas = engines.answer(request("a", range(42), max_tokens=2))
    assert deltas[-1].usage.cached_tokens == 40
    assert engines.prefill.report().cached_tokens_total == 40


def test_layers_go_while_later_ones_are_computed(folder):
    """The first chunk's blocks are in the decode engine before the last chunk is computed."""
    engines = Engines(folder, lambda _: emulated())
    engines.submit(request("a", range(64), max_tokens=2))

    def ahead():
        [(_, coming)] = engines.decode.desk._coming.values() or [(None, None)]
        return coming is not None and coming.whole_blocks >= 4 and coming.first is None

    engines.turn()
    deadline = time.monotonic() + 5
    while not ahead():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert engines.prefill.report().waiting_tokens > 0
    engines.run()
    engines.nothing_left()
    engines.close()


def test_many_at_once_end_right(engines):
    """Shared prefixes, more requests than the batch takes: all answers are right, all is freed."""
    asks = [
        request(f"r{i}", [*range(i % 3 * 8), *range(100, 100 + 11 * (i % 5) + 1)], max_tokens=6)
        for i in range(40)
    ]
    right = run_all(core_of(emulated()), *asks)
    for one in asks:
        engines.submit(one)
    engines.run()
    for one in asks:
        assert text_of(engines.deltas[one.id]) == text_of(right[one.id])
    engines.nothing_left()


def test_a_seeded_answer_is_that_of_one_engine_alone_on_loom_s(folder):
    """Real attention in float32: greedy and sampled answers, token by token, with logprobs."""
    pytest.importorskip("torch")
    from starloom.serve.engines.embedded import EmbeddedExecutor

    def make(_: str = ""):
        return EmbeddedExecutor(
            model_path("loom-s"),
            kv_cache_bytes=8 << 20,
            block_tokens=16,
            context_tokens=512,
        )

    batch = {"max_batch_tokens": 64}
    alone = core_of(make(), block_tokens=16, **batch)
    engines = Engines(folder, make, block_tokens=16, core=batch)
    for seed, temperature in ((0, 0.0), (1, 1.0), (2, 0.7)):
        prompt = [int(1000 * uniform(seed, i)) + 20 for i in range(200 + seed)]
        one = request(
            f"r{seed}",
            prompt,
            block_tokens=16,
            max_tokens=24,
            temperature=temperature,
            seed=seed,
            logprobs=2,
        )
        right, deltas = run_all(alone, one)[one.id], engines.answer(one)
        assert [d.logprobs for d in deltas] == [d.logprobs for d in right]
        assert alone.export_blocks(one.keys) == engines.decode.export_blocks(one.keys)
    engines.nothing_left()
    engines.close()


def test_a_cancelled_half_frees_its_blocks_whenever_it_comes(engines):
    """At every moment of the other half's life: both end, and nothing is held."""
    one = request("r", range(61), max_tokens=6)
    right = text_of(run_all(core_of(emulated()), one)["r"])
    for turns in range(8):
        for side in ("prefill", "decode", "both"):
            name = f"{side}{turns}"
            ask = msgspec.structs.replace(one, id=name, keys=[], root=b"")
            engines.submit(ask)
            for _ in range(turns):
                engines.turn()
            if side in ("decode", "both"):
                engines.decode.cancel(name)
            if side in ("prefill", "both"):
                engines.prefill.cancel(name)
                engines.decode.forgo(f"transfer-{name}")
            if side == "decode":
                engines.prefill.cancel(name)
            engines.run()
            engines.nothing_left()
            if side == "prefill":  # the decode engine computes what did not come
                assert text_of(engines.deltas[name]) == right


def test_a_prefill_engine_that_is_not_there_is_done_without(engines, folder):
    one = request("a", range(30), max_tokens=4)
    right = text_of(run_all(core_of(emulated()), one)["a"])
    for number, source in enumerate((f"unix:{folder}/nobody", "tcp:127.0.0.1:1", "junk")):
        ask = msgspec.structs.replace(one, id=f"a{number}")
        engines.submit(ask, prefill=False, source=source)
        engines.run()
        assert text_of(engines.deltas[ask.id]) == right
    engines.nothing_left()


def test_a_prefill_engine_that_dies_while_it_sends_is_done_without(engines):
    """What came whole is kept, the rest is computed here."""
    one = request("a", range(64), max_tokens=4)
    right = text_of(run_all(core_of(emulated()), one)["a"])
    engines.submit(one)
    engines.turn()
    engines.turn()
    engines.prefill.cancel("a")
    engines.prefill.close()
    engines.run(lambda: engines.decode.idle)
    assert text_of(engines.deltas["a"]) == right


def test_connections_are_used_again_and_dead_ones_closed(engines):
    """One connection for transfers one after the other; none is kept to a worker that is gone."""
    fetcher = engines.decode.desk._fetcher
    for number in range(3):
        engines.answer(request(f"r{number}", [number] * 9))
    [[kept]] = fetcher._idle.values()
    engines.answer(request("again", [7] * 9))
    assert fetcher._idle == {engines.desks[0].address: [kept]}
    engines.prefill.close()
    deadline = time.monotonic() + 5
    while kept.alive:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    fetcher._keep("unix:/another", kept)
    assert engines.desks[0].address not in fetcher._idle


def test_a_broken_connection_ends_the_prefill_half_too(engines):
    """The decode engine goes: what it would have fetched is freed at once."""
    engines.submit(request("a", range(64), max_tokens=4))
    engines.turn()
    [(_, leaving)] = engines.prefill.desk._leaving.values()
    deadline = time.monotonic() + 5
    while not leaving.claimed:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    engines.decode.cancel("a")
    engines.run(lambda: engines.prefill.idle)
    assert engines.prefilled["a"][-1].finish == "cancelled"
    engines.nothing_left()


def test_a_prompt_that_nobody_fetches_is_given_up(folder):
    now = [0.0]
    engines = Engines(folder, lambda _: emulated(), lease_s=5.0, clock=lambda: now[0])
    half = msgspec.structs.replace(request("a", range(20)), handover=Handover("x"))
    engines.prefilled["a"] = []
    engines.prefill.submit(half)
    for _ in range(10):
        engines.turn()
    assert engines.prefill.report().kv_blocks_used == 5
    now[0] = 6.0
    engines.turn()
    assert engines.prefilled["a"][-1].finish == "cancelled"
    engines.nothing_left()
    engines.close()


def test_prompts_that_wait_make_room_when_blocks_run_out(folder):
    """Ten prompts of 12 blocks in an engine of 32, wanted in the reverse order: all end right."""
    engines = Engines(folder, lambda name: emulated(num_blocks=32 if name == "p" else 64))
    asks = [request(f"r{i}", [i] * 48, max_tokens=3) for i in range(10)]
    right = run_all(core_of(emulated()), *asks)
    for one in asks:
        half = msgspec.structs.replace(one, handover=Handover(f"transfer-{one.id}"))
        engines.prefilled[one.id] = []
        assert engines.prefill.submit(half) is None
    for one in reversed(asks):
        engines.submit(one, prefill=False)
    engines.run()
    for one in asks:
        assert text_of(engines.deltas[one.id]) == text_of(right[one.id])
    engines.nothing_left()
    engines.close()


def test_preempted_sequences_compute_again_by_themselves(folder):
    """A decode engine with too few blocks for all answers: right answers all the same."""
    engines = Engines(folder, lambda name: emulated(num_blocks=64 if name == "p" else 14))
    asks = [request(f"r{i}", [i] * 12, max_tokens=20) for i in range(6)]
    right = run_all(core_of(emulated()), *asks)
    for one in asks:
        engines.submit(one)
    engines.run()
    for one in asks:
        assert text_of(engines.deltas[one.id]) == text_of(right[one.id])
    engines.nothing_left()
    engines.close()


def test_other_weights_never_meet(folder):
    """A worker of another layout refuses; the answer is computed where it is decoded."""
    engines = Engines(folder, lambda _: emulated())
    engines.decode.desk._fetcher._layout = "another"
    one = request("a", range(20), max_tokens=3)
    right = text_of(run_all(core_of(emulated()), one)["a"])
    engines.submit(one)
    engines.run(lambda: engines.decode.idle)
    assert text_of(engines.deltas["a"]) == right
    report = engines.decode.report()
    assert (report.prompt_tokens_total, report.fetched_total) == (20, 0)
    assert report.fetch_failures_total == 1
    engines.close()


def test_a_site_without_halves_refuses_them():
    half = msgspec.structs.replace(request("a", range(4)), handover=Handover("x"))
    with pytest.raises(Unavailable, match="no halves"):
        core_of(emulated()).submit(half)


def test_the_modelled_time_of_a_transfer_is_spent(folder):
    """16 blocks of 1,024 bytes at 1.6 MB/s: about 10 ms more than with a fast link."""

    def seconds(name: str, gb_per_s: float) -> float:
        (folder / name).mkdir()
        engines = Engines(
            folder / name, lambda _: emulated(time_scale=1.0, handover_gb_per_s=gb_per_s)
        )
        assert engines.prefill.executor.transfer_s(16) == pytest.approx(16 * 2048 / 1e9 / gb_per_s)
        began = time.monotonic()
        engines.answer(request("a", range(64), max_tokens=1))
        engines.close()
        return time.monotonic() - began

    fast = min(seconds(f"f{i}", 1e6) for i in range(2))
    assert seconds("s", 1e-4) > fast + 0.25


@settings(max_examples=25, deadline=None)
@given(
    prompts=st.lists(
        st.tuples(st.integers(1, 50), st.integers(0, 2), st.booleans()), min_size=1, max_size=8
    ),
    blocks=st.tuples(st.integers(16, 40), st.integers(16, 40)),
)
def test_whatever_comes_ends_and_frees_everything(prompts, blocks):
    """Any mix of lengths, prefixes and cancellations in small caches: answers are right."""
    with tempfile.TemporaryDirectory(prefix="kv-") as path:
        sizes = dict(zip("pd", blocks, strict=True))
        engines = Engines(Path(path), lambda name: emulated(num_blocks=sizes[name]))
        asks = [
            request(f"r{i}", [kind] * 8 + list(range(count)), max_tokens=3)
            for i, (count, kind, _) in enumerate(prompts)
        ]
        right = run_all(core_of(emulated()), *asks)
        for one in asks:
            engines.submit(one)
            engines.turn()
        for one, (_, _, cancelled) in zip(asks, prompts, strict=True):
            if cancelled:
                for core in engines.cores:
                    core.cancel(one.id)
        engines.run()
        for one, (_, _, cancelled) in zip(asks, prompts, strict=True):
            if not cancelled:
                assert text_of(engines.deltas[one.id]) == text_of(right[one.id])
        engines.nothing_left()
        engines.close()


@contextlib.contextmanager
def ends(kind: str, piece_bytes: int = 64, part_bytes: int = 16):
    """A sender and a receiver that are connected."""
    if kind == "unix":
        one, other = socket.socketpair(socket.AF_UNIX)
        sender, receiver = ShmSender(one, piece_bytes), ShmReceiver(other, part_bytes)
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            one = socket.create_connection(listener.getsockname())
            other, _ = listener.accept()
        sender = TcpSender(one, piece_bytes)
        receiver = TcpReceiver(other, part_bytes, piece_bytes)
    try:
        yield sender, receiver
    finally:
        sender.close()
        receiver.close()


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_a_receiver_that_is_behind_holds_the_sender_back(kind):
    """Memory stays bounded: the sender waits after what fits slots or the socket's buffers."""
    size = 1 << 20
    with ends(kind, size, size) as (sender, receiver):
        sent = []

        def send():
            for at in range(40):
                piece = Piece(layer=0, first=at, count=1)
                sender.piece(piece, size, lambda view, at=at: view.__setitem__(0, at))
                sent.append(at)

        thread = threading.Thread(target=send, daemon=True)
        thread.start()
        time.sleep(0.3)
        assert len(sent) <= (SLOTS if kind == "unix" else 10)
        for at in range(40):
            frame, view = receiver.hear(5)
            assert (frame.first, view[0], len(view)) == (at, at, size)
        thread.join(5)
        assert len(sent) == 40


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_frames_go_both_ways(kind):
    first = First(token=3, logprob=-0.5, top=[(3, -0.5)], cached_tokens=4, pool_tokens=0)
    with ends(kind) as (sender, receiver):
        receiver.say(Want("n", "l", 2))
        assert sender.hear(5) == Want("n", "l", 2)
        for frame in (Waiting(), first, Gone("why")):
            sender.say(frame)
            assert receiver.hear(5)[0] == frame
        assert receiver.alive
        sender.close()
        assert not receiver.alive


@pytest.mark.parametrize(
    ("kind", "frame"),
    [
        ("unix", Piece(layer=0, first=0, count=9)),
        ("tcp", Piece(layer=0, first=0, count=9)),
        ("unix", Piece(layer=0, first=0, count=1, slot=99)),
    ],
)
def test_pieces_that_cannot_be_are_refused(kind, frame):
    """More blocks than a piece may have, or a slot that is not there."""
    with ends(kind) as (sender, receiver):
        sender.say(frame)
        with pytest.raises(HandoverError):
            receiver.hear(5)


@pytest.mark.parametrize("junk", [b"GET / HTTP/1.1\r\n\r\n", b"\x03\x00\x00\x00\xff\xff\xff"])
def test_junk_closes_its_connection_alone(engines, junk):
    """Whoever connects and speaks another language is dropped; transfers go on."""
    kind, _, place = engines.desks[0].address.partition(":")
    host, _, port = place.rpartition(":")
    sock = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
    with sock:
        sock.settimeout(5)
        sock.connect(place if kind == "unix" else (host, int(port)))
        sock.sendall(junk)
        with contextlib.suppress(ConnectionResetError):
            while sock.recv(4096):
                pass
    assert engines.answer(request("a", range(9)))[-1].finish == "length"


def test_a_name_that_nobody_was_told_gets_nothing(engines, monkeypatch):
    """A stranger on the port learns nothing: there is no list, and names are secrets."""
    monkeypatch.setattr("starloom.serve.engines.handover.outgoing.SILENCE_S", 0.0)
    monkeypatch.setattr("starloom.serve.engines.handover.outgoing.HEARTBEAT_S", 0.05)
    engines.submit(request("a", range(9), max_tokens=1))
    kind, _, place = engines.desks[0].address.partition(":")
    host, _, port = place.rpartition(":")
    sock = socket.socket(socket.AF_UNIX if kind == "unix" else socket.AF_INET)
    sock.connect(place if kind == "unix" else (host, int(port)))
    channel = Channel(sock)
    if kind == "unix":
        sock.recv(12)
    channel.say(Want("transfer-", "layout", 0))
    frame = channel.hear(5)
    while isinstance(frame, Waiting):
        frame = channel.hear(5)
    assert frame == Gone("there is no such transfer")
    channel.close()
    engines.run()


@pytest.mark.parametrize("kind", ["unix", "tcp"])
def test_two_worker_processes_share_a_request(folder, kind):
    """As a gateway drives them: halves over their sockets, and a role that one takes and tells."""
    workers = [
        {"name": "p", "engine": "emulated", "time_scale": 0.0, "role": "prefill", "handover": kind},
        {"name": "d", "engine": "emulated", "time_scale": 0.0, "role": "decode"},
    ]
    site = make_site(folder, workers)
    rundir = RunDir(folder / "r")
    rundir.create()
    rundir.write_site(site)
    fingerprint = ModelFiles(site, "m").fingerprint
    one = request("a", range(40), max_tokens=6)
    right = text_of(run_all(core_of(emulated()), one)["a"])

    async def collected(engine, half):
        return [d async for d in engine.stream(msgspec.structs.replace(one, handover=half))]

    async def test():
        prefill, decode = (
            RemoteEngine(name, "m", rundir.worker_socket(name), fingerprint) for name in "pd"
        )
        with running(rundir, "p"), running(rundir, "d"):
            for engine in (prefill, decode):
                await engine.start()
                await until(lambda engine=engine: engine.ready)
            assert prefill.handover.startswith(f"{kind}:")
            halves = Handover("x"), Handover("x", prefill.handover)
            first, second = await asyncio.gather(
                collected(prefill, halves[0]), collected(decode, halves[1])
            )
            assert [d.finish for d in first] == [None, "stop"]
            assert text_of(second) == right
            # A transfer that will not come: told, the decode worker computes at once.
            waits = asyncio.create_task(collected(decode, Handover("y", prefill.handover)))
            await until(lambda: decode.report().arriving == 1)
            assert decode.report().kv_blocks_arriving == 10
            decode.forgo("y")
            assert text_of(await waits) == right
            await until(lambda: decode.report().kv_blocks_used == 0)
            assert (prefill.report().role, decode.report().role) == ("prefill", "decode")
            decode.take_role("prefill")
            await until(lambda: decode.report().role == "prefill")
            await prefill.close()
            await decode.close()

    run_async(test)
