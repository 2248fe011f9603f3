"""Worker processes and `RemoteEngine` together: answers, losses, cancels, blocks, the way out."""

import asyncio
import os
import signal
import socket
import stat
import time

import pytest

from starloom.serve.engines import RemoteEngine, connect, wire
from starloom.serve.errors import EngineFailed, Unavailable
from starloom.serve.models import ModelFiles
from starloom.serve.rundir import RunDir

from engine_fixtures import (
    SHAPE,
    make_site,
    request,
    run_async,
    running,
    save_tokenizer,
    text_of,
    until,
)

SLOW = 4000.0
"""A step of the made-up chip takes about a microsecond; scaled, some milliseconds."""


@pytest.fixture
def rundir(tmp_path_factory):
    """A running site with a quick worker `w` and two slow ones; short, for the socket's path."""
    folder = tmp_path_factory.mktemp("r")
    folder.chmod(0o700)
    site = make_site(
        folder,
        [
            {"name": "w", "engine": "emulated", "time_scale": 0.0},
            {"name": "slow", "engine": "emulated", "time_scale": SLOW, "max_waiting": 1},
            {"name": "slow2", "engine": "emulated", "time_scale": SLOW, "max_batch": 1},
        ],
    )
    made = RunDir(folder / "r")
    made.create()
    made.write_site(site)
    return made


def engine_of(rundir: RunDir, name: str) -> RemoteEngine:
    return next(e for e in connect(rundir.site(), rundir) if e.name == name)


async def exhaust(stream):
    async for _ in stream:
        pass


async def collect(engine, one):
    return [delta async for delta in engine.stream(one)]


def test_a_request_is_answered_over_the_socket(rundir):
    """Hello, deltas, reports; the socket belongs to its owner alone, and SIGTERM ends all."""

    async def test():
        with running(rundir, "w") as process:
            engine = engine_of(rundir, "w")
            seen = []
            engine.on_up = lambda name: seen.append(("up", name))
            engine.on_down = lambda name: seen.append(("down", name))
            with pytest.raises(Unavailable):
                await collect(engine, request("early", range(5)))
            await engine.start()
            await until(lambda: engine.ready)
            assert engine.hello.kv_blocks == 0.25 * 2**30 // (4 * SHAPE.kv_bytes_per_token)
            mode = rundir.worker_socket("w").stat().st_mode
            assert stat.S_IMODE(mode) == 0o600
            deltas = await collect(engine, request("a", range(10), max_tokens=30))
            assert sum(d.tokens for d in deltas) == 30
            assert deltas[-1].usage.completion_tokens == 30
            assert text_of(deltas) == text_of(
                await collect(engine, request("b", range(10), max_tokens=30))
            )
            await until(lambda: engine.report().generated_tokens_total == 60)
            assert engine.report().cached_tokens_total == 8
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            assert await asyncio.to_thread(process.wait, 5) == 0
            assert time.monotonic() - began < 2
            await until(lambda: not engine.ready)
            assert seen == [("up", "w"), ("down", "w")]
            assert not rundir.worker_socket("w").exists()
            await engine.close()

    run_async(test)


def test_many_requests_at_once_are_all_answered(rundir):
    async def test():
        with running(rundir, "w"):
            engine = engine_of(rundir, "w")
            await engine.start()
            await until(lambda: engine.ready)
            answers = await asyncio.gather(
                *(
                    collect(engine, request(f"r{i}", range(i, i + 20), max_tokens=10))
                    for i in range(60)
                )
            )
            assert all(a[-1].usage.completion_tokens == 10 for a in answers)
            await until(lambda: engine.report().kv_blocks_used == 0)
            await engine.close()

    run_async(test)


def test_a_killed_worker_fails_its_streams_at_once_and_comes_back(rundir):
    """After kill -9 `EngineFailed` comes within a second; restarted, it answers again."""

    async def test():
        engine = engine_of(rundir, "slow")
        await engine.start()
        with running(rundir, "slow") as process:
            await until(lambda: engine.ready)
            stream = engine.stream(request("a", range(10), max_tokens=4000))
            await anext(stream)
            process.kill()
            began = time.monotonic()
            with pytest.raises(EngineFailed):
                await exhaust(stream)
            assert time.monotonic() - began < 1
            assert not engine.ready
        with running(rundir, "slow"):
            await until(lambda: engine.ready)
            deltas = await collect(engine, request("a", range(10), max_tokens=3))
            assert deltas[-1].finish == "length"
        await engine.close()

    run_async(test)


def test_closing_a_stream_cancels_and_frees_its_blocks(rundir):
    async def test():
        with running(rundir, "slow"):
            engine = engine_of(rundir, "slow")
            await engine.start()
            await until(lambda: engine.ready)
            stream = engine.stream(request("a", range(10), max_tokens=4000))
            await anext(stream)
            await until(lambda: engine.report().kv_blocks_used > 0)
            await stream.aclose()
            await until(lambda: engine.report().kv_blocks_used == 0, 2)
            assert engine.report().running == 0
            await engine.close()

    run_async(test)


def test_a_closed_connection_cancels_what_came_over_it(rundir):
    async def test():
        with running(rundir, "slow"):
            first, second = engine_of(rundir, "slow"), engine_of(rundir, "slow")
            for engine in (first, second):
                await engine.start()
                await until(lambda engine=engine: engine.ready)
            stream = first.stream(request("a", range(10), max_tokens=4000))
            await anext(stream)
            await until(lambda: second.report().running == 1)
            await first.close()
            with pytest.raises(EngineFailed):
                await exhaust(stream)
            await until(lambda: second.report().running == 0, 2)
            await second.close()

    run_async(test)


def test_a_full_queue_is_unavailable_and_reports_go_on(rundir):
    """`slow` lets one wait. The refused one may try another worker, so it is no error delta."""

    async def test():
        with running(rundir, "slow"):
            engine = engine_of(rundir, "slow")
            await engine.start()
            await until(lambda: engine.ready)
            asks = [
                asyncio.create_task(collect(engine, request(f"r{i}", [i] * 60, max_tokens=20)))
                for i in range(8)
            ]
            done = await asyncio.gather(*asks, return_exceptions=True)
            refused = [d for d in done if isinstance(d, Unavailable)]
            assert refused
            assert "wait" in refused[0].message
            answered = [d for d in done if isinstance(d, list)]
            assert answered
            assert all(d[-1].finish == "length" for d in answered)
            await engine.close()

    run_async(test)


def test_what_never_fits_is_an_error_delta(rundir):
    async def test():
        with running(rundir, "w"):
            engine = engine_of(rundir, "w")
            await engine.start()
            await until(lambda: engine.ready)
            [delta] = await collect(engine, request("a", [1] * 5000))
            assert (delta.finish, delta.usage) == ("error", None)
            await engine.close()

    run_async(test)


def test_blocks_are_handed_over_between_workers(rundir):
    """Prefill on one, decode on the other: the second computes the last block alone."""

    async def test():
        with running(rundir, "w"), running(rundir, "slow2"):
            first, second = engine_of(rundir, "w"), engine_of(rundir, "slow2")
            for engine in (first, second):
                await engine.start()
                await until(lambda engine=engine: engine.ready)
            one = request("a", range(40), max_tokens=1)
            await collect(first, one)
            blocks = await first.export_blocks([*one.keys, b"unknown"])
            assert list(blocks) == one.keys
            assert await second.import_blocks(blocks) == 10
            deltas = await collect(second, one)
            assert deltas[-1].usage.cached_tokens == 36
            await first.close()
            await second.close()

    run_async(test)


def test_large_blocks_are_handed_over_in_several_frames(tmp_path_factory):
    """Six blocks of 8 MiB do not fit one frame of 32 MiB; all of them arrive, in order."""
    folder = tmp_path_factory.mktemp("l")
    folder.chmod(0o700)
    worker = {"engine": "emulated", "time_scale": 0.0}
    model = {"name": "m", "tokenizer": "model", "shape": "llama-3-8b"}
    site = make_site(folder, [{"name": n, **worker} for n in "ab"], models=[model])
    rundir = RunDir(folder / "r")
    rundir.create()
    rundir.write_site(site)

    async def test():
        with running(rundir, "a"), running(rundir, "b"):
            engines = [engine_of(rundir, name) for name in "ab"]
            for engine in engines:
                await engine.start()
                await until(lambda engine=engine: engine.ready)
            one = request("a", [7] * 385, block_tokens=64, max_tokens=1)
            await collect(engines[0], one)
            blocks = await engines[0].export_blocks(one.keys)
            assert list(blocks) == one.keys
            assert {len(data) for data in blocks.values()} == {8 << 20}
            assert await engines[1].import_blocks(blocks) == 6
            assert await engines[1].export_blocks(one.keys) == blocks
            for engine in engines:
                await engine.close()

    run_async(test)


def test_a_drained_worker_finishes_and_ends(rundir):
    async def test():
        with running(rundir, "slow") as process:
            engine = engine_of(rundir, "slow")
            await engine.start()
            await until(lambda: engine.ready)
            stream = engine.stream(request("a", range(10), max_tokens=60))
            await anext(stream)
            engine.drain()
            with pytest.raises(Unavailable, match="drained"):
                await collect(engine, request("b", range(10)))
            assert [d async for d in stream][-1].finish == "length"
            assert await asyncio.to_thread(process.wait, 5) == 0
            await engine.close()

    run_async(test)


def test_sigterm_in_a_long_step_ends_within_two_seconds(rundir):
    """A prefill that would take minutes is left; the client is told `cancelled` or loses it."""

    async def test():
        site = rundir.site()
        workers = [w.model_copy(update={"time_scale": 1e9}) for w in site.workers]
        rundir.write_site(site.model_copy(update={"workers": workers}))
        with running(rundir, "slow") as process:
            engine = engine_of(rundir, "slow")
            await engine.start()
            await until(lambda: engine.ready)
            ask = asyncio.create_task(collect(engine, request("a", [1] * 900)))
            await until(lambda: engine.report().steps_total == 0 and engine.ready)
            await asyncio.sleep(0.6)
            assert engine.ready, "reports go on during a step"
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(process.wait, 5) == 0
            assert time.monotonic() - began < 2
            [result] = await asyncio.gather(ask, return_exceptions=True)
            assert isinstance(result, EngineFailed) or result[-1].finish == "cancelled"
            await engine.close()

    run_async(test)


def test_a_worker_with_other_weights_is_not_ready(rundir):
    """Its blocks and answers would not be those of the model that the gateway knows."""

    async def test():
        with running(rundir, "w"):
            engine = RemoteEngine("w", "m", rundir.worker_socket("w"), "another fingerprint")
            right = engine_of(rundir, "w")
            for one in (engine, right):
                await one.start()
            await until(lambda: right.ready)
            await asyncio.sleep(0.2)
            assert not engine.ready
            await engine.close()
            await right.close()

    run_async(test)


@pytest.mark.parametrize(
    "junk",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        (wire.MAX_FRAME_BYTES + 1).to_bytes(4, "little"),
        (3).to_bytes(4, "little") + b"\xff\xff\xff",
        wire.encode(wire.Refused("a", "not for a worker")),
    ],
    ids=["http", "too long", "no msgpack", "wrong way"],
)
def test_junk_closes_its_connection_and_never_the_worker(rundir, junk):
    async def test():
        with running(rundir, "w") as process:
            engine = engine_of(rundir, "w")
            await engine.start()
            await until(lambda: engine.ready)

            def send():
                with socket.socket(socket.AF_UNIX) as raw:
                    raw.settimeout(5)
                    raw.connect(str(rundir.worker_socket("w")))
                    raw.sendall(junk)
                    try:
                        while raw.recv(4096):
                            pass
                    except ConnectionResetError:
                        pass

            await asyncio.to_thread(send)
            assert process.poll() is None
            assert (await collect(engine, request("a", range(5))))[-1].finish == "length"
            await engine.close()

    run_async(test)


def test_a_stale_socket_file_is_replaced(rundir):
    """A killed worker leaves its file behind."""

    async def test():
        with running(rundir, "w") as process:
            engine = engine_of(rundir, "w")
            await engine.start()
            await until(lambda: engine.ready)
            process.kill()
            await until(lambda: not engine.ready)
        assert rundir.worker_socket("w").exists()
        with running(rundir, "w"):
            await until(lambda: engine.ready)
        await engine.close()

    run_async(test)


def test_a_worker_that_cannot_start_says_why(rundir):
    """No such worker: status 2, and a line in the log that holds no traceback."""
    with running(rundir, "nobody") as process:
        assert process.wait(20) == 2
    log = rundir.log("nobody").read_text()
    assert "cannot start" in log
    assert "Traceback" not in log


def test_a_worker_ends_with_its_parent(rundir, monkeypatch):
    """The lifeline's other end closes: the worker goes."""
    read, write = os.pipe()
    os.set_inheritable(read, True)
    monkeypatch.setenv("STARLOOM_LIFELINE_FD", str(read))

    async def test():
        engine = engine_of(rundir, "w")
        await engine.start()
        await until(lambda: engine.ready)
        os.close(write)
        await until(lambda: not engine.ready, 3)
        await engine.close()

    with running(rundir, "w", pass_fds=(read,)) as process:
        os.close(read)
        run_async(test)
        assert process.wait(5) == 0


def test_a_worker_with_weights_answers(tmp_path_factory):
    """The embedded engine end to end, on a random folder."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("e")
    folder.chmod(0o700)
    config = transformers.LlamaConfig(
        vocab_size=260,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder / "model")
    save_tokenizer(folder / "model")
    site = make_site(
        folder,
        [{"name": "w", "engine": "embedded", "kv_cache_gib": 0.01, "device": "cpu"}],
        models=[{"name": "m", "path": "model", "block_tokens": 4, "context_tokens": 512}],
    )
    rundir = RunDir(folder / "r")
    rundir.create()
    rundir.write_site(site)

    async def test():
        with running(rundir, "w"):
            engine = engine_of(rundir, "w")
            await engine.start()
            await until(lambda: engine.ready)
            one, two = (request(name, range(40), max_tokens=8, logprobs=1) for name in "ab")
            first, second = await collect(engine, one), await collect(engine, two)
            assert first[-1].usage.completion_tokens == 8
            assert second[-1].usage.cached_tokens == 36
            chosen = [[p.data for d in deltas for p in d.logprobs] for deltas in (first, second)]
            assert chosen[0] == chosen[1]
            blocks = await engine.export_blocks(one.keys)
            assert {len(b) for b in blocks.values()} == {ModelFiles(site, "m").block_bytes}
            await engine.close()

    run_async(test)
