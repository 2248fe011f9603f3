"""KV events over real sockets: an index while a server drops, restarts and goes away."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from starloom.kv import block_keys, root_key
from starloom.serve.signals import EventReader, KvEventSource, NoZmq, Publisher, cache_salt, roots

from engine_fixtures import run_async, until
from fake_vllm import FakeVllm, HeldSink

ROOT = root_key(fingerprint="elsewhere:m", block_tokens=4, salt="acme\n")
SALT = cache_salt(ROOT)
TOKENS = list(range(40))


def source_of(sink, *servers, replay=True, **more):
    return KvEventSource(
        "w",
        [Publisher(one.endpoint, one.replay_endpoint if replay else None) for one in servers],
        lambda: EventReader(4, roots(), replay=replay),
        sink,
        topic="kv-",
        **more,
    )


@asynccontextmanager
async def listening(*servers, **more):
    sink = HeldSink()
    source = source_of(sink, *servers, **more)
    await source.start()
    try:
        await until(lambda: source.live)
        yield source, sink
    finally:
        await source.close()


def told(sink, *servers):
    """Whether the index holds what the servers do."""
    return sink.held.get("w", set()) == set().union(*(one.cache.truth() for one in servers))


@pytest.mark.parametrize("form", ["map", "array"])
def test_an_index_follows_a_server(form):
    """What was published before we came is replayed; then stores, removals and clearing follow."""

    async def test():
        async with FakeVllm(form=form) as server:
            server.cache.store(TOKENS[:8], SALT)
            await server.publish()
            async with listening(server) as (source, sink):
                await until(lambda: told(sink, server))
                assert sink.held["w"] == set(block_keys(ROOT, TOKENS[:8], 4))
                hashes = server.cache.store(TOKENS, SALT, first=2)
                server.cache.remove(hashes[-1])
                await server.publish()
                await until(lambda: told(sink, server))
                assert source.held == 9
                server.cache.clear()
                await server.publish()
                await until(lambda: told(sink, server))

    run_async(test)


def test_dropped_messages_are_replayed():
    """A gap costs one question, and nothing is forgotten."""

    async def test():
        async with FakeVllm() as server, listening(server) as (source, sink):
            server.cache.store(TOKENS[:8], SALT)
            await server.publish()
            await until(lambda: told(sink, server))
            server.drop = True
            [*_, last] = server.cache.store(TOKENS[:16], SALT, first=2)
            await server.publish()
            server.cache.remove(last)
            await server.publish()
            server.drop = False
            server.cache.store(TOKENS[20:], SALT)
            await server.publish()
            await until(lambda: told(sink, server))
            assert server.replays == [0, 0]  # at the start, and from the last that was read
            assert sink.clears == 0
            assert source.readers[0].counts.gaps == 1

    run_async(test)


def test_without_replay_a_gap_forgets():
    async def test():
        async with FakeVllm() as server, listening(server, replay=False) as (_, sink):
            await asyncio.sleep(0.1)  # a subscription takes a moment to arrive
            server.cache.store(TOKENS[:8], SALT)
            await server.publish()
            await until(lambda: told(sink, server))
            server.drop = True
            await server.publish()
            server.drop = False
            server.cache.store(TOKENS[20:], SALT)
            await server.publish()
            await until(lambda: sink.held["w"] == set(block_keys(ROOT, TOKENS[20:], 4)))
            assert sink.clears == 1

    run_async(test)


def test_a_server_that_is_started_again_is_learnt_anew():
    """The connection comes back by itself; what the old process held is forgotten."""

    async def test():
        async with FakeVllm() as server, listening(server) as (source, sink):
            server.cache.store(TOKENS, SALT)
            await server.publish()
            await until(lambda: told(sink, server))
            await server.restart()
            server.cache.store(TOKENS[:8], SALT)
            await server.publish()
            await until(lambda: told(sink, server), timeout_s=10)
            assert sink.clears == 1
            assert source.live

    run_async(test)


def test_a_short_absence_loses_nothing_and_a_long_one_everything():
    """Belief outlives a broken connection for a while, and no longer."""

    async def test():
        async with FakeVllm() as server, listening(server, stale_s=0.6) as (source, sink):
            server.cache.store(TOKENS[:8], SALT)
            await server.publish()
            await until(lambda: told(sink, server))
            await server.away()
            await until(lambda: not source.live)
            assert source.held == 2
            await server.back()
            await until(lambda: source.live)
            assert (source.held, sink.clears) == (2, 0)
            await server.away()
            await until(lambda: sink.clears == 1)
            assert source.held == 0
            await server.back()
            await until(lambda: told(sink, server), timeout_s=10)

    run_async(test)


def test_a_replay_that_does_not_come_is_given_up():
    """The server is silent: nothing older is believed, and what it publishes is read."""

    async def test():
        async with FakeVllm() as server:
            server.mute_replay = True
            server.cache.store(TOKENS[:8], SALT)
            await server.publish()
            sink = HeldSink()
            source = source_of(sink, server, replay_timeout_s=0.2)
            await source.start()
            await until(lambda: source.readers[0].counts.failed_replays == 1)
            server.mute_replay = False
            await server.publish()
            await until(lambda: told(sink, server))
            await source.close()

    run_async(test)


def test_ranks_of_one_server_are_one_worker():
    """A block is held while one rank holds it; a rank that clears takes only its own."""

    async def test():
        async with FakeVllm() as one, FakeVllm() as two, listening(one, two) as (_, sink):
            for rank, count in ((one, 8), (two, 16)):
                rank.cache.store(TOKENS[:count], SALT)
                await rank.publish()
            await until(lambda: told(sink, one, two))
            two.cache.clear()
            await two.publish()
            await until(lambda: told(sink, one, two))
            assert len(sink.held["w"]) == 2

    run_async(test)


def test_what_the_index_forgot_is_told_again():
    """A worker that failed a health check was dropped by the schedule, not by the server."""

    async def test():
        async with FakeVllm() as one, FakeVllm() as two, listening(one, two) as (source, sink):
            for rank, count in ((one, 8), (two, 16)):
                rank.cache.store(TOKENS[:count], SALT)
                await rank.publish()
            await until(lambda: told(sink, one, two))
            sink.cleared("w")
            source.retell()
            assert told(sink, one, two)
            two.cache.clear()
            await two.publish()
            await until(lambda: told(sink, one, two))

    run_async(test)


def test_an_address_that_cannot_be_is_told_and_tried_again(monkeypatch, caplog):
    """The task lives on: a name may be there later."""
    monkeypatch.setattr("starloom.serve.signals.source._PAUSE_S", 0.02)

    async def test():
        source = KvEventSource(
            "w",
            [Publisher("tcp://no such host:1")],
            lambda: EventReader(4, roots(), replay=False),
            HeldSink(),
        )
        await source.start()
        await until(lambda: len(caplog.records) >= 2)
        assert not source.live
        await source.close()

    run_async(test)


def test_ranks_have_ports_in_a_row():
    first = Publisher("tcp://host:5557", "tcp://[::1]:5600")
    assert first.of_rank(3) == Publisher("tcp://host:5560", "tcp://[::1]:5603")
    assert Publisher("tcp://host:1").of_rank(1) == Publisher("tcp://host:2")


def test_without_pyzmq_the_error_names_the_extra(monkeypatch):
    """A site with kv_events on a plain install ends with the command that mends it."""
    monkeypatch.setitem(__import__("sys").modules, "zmq", None)
    monkeypatch.setitem(__import__("sys").modules, "zmq.asyncio", None)
    source = KvEventSource(
        "w", [Publisher("tcp://h:1")], lambda: EventReader(4, roots(), replay=False), HeldSink()
    )
    with pytest.raises(NoZmq, match=r"starloom\[events\]"):
        asyncio.run(source.start())
