"""Deltas of a slow reader, blocks in frames, and which engines a site has."""

import asyncio

import pytest

from starloom.serve.base import Delta, TokenLogprob, Usage
from starloom.serve.engines import OpenAIEngine, RemoteEngine, connect, wire
from starloom.serve.engines.streams import DeltaQueue
from starloom.serve.errors import EngineFailed
from starloom.serve.rundir import RunDir

from engine_fixtures import make_site, text_of


def delta(i: int, **more: object) -> Delta:
    return Delta(id="a", text=f"{i},", tokens=1, logprobs=[TokenLogprob("x", b"x", -1.0)], **more)


async def drained(queue: DeltaQueue) -> list[Delta]:
    found = [await queue.get()]
    while found[-1].finish is None:
        found.append(await queue.get())
    return found


def test_deltas_of_a_slow_reader_merge():
    """1000 deltas wait in 32 places; no text, token or logprob is lost, and the end is the end."""

    async def test():
        queue = DeltaQueue()
        usage = Usage(prompt_tokens=1, completion_tokens=1000)
        for i in range(999):
            queue.put(delta(i))
        queue.put(delta(999, finish="stop", stop="x", usage=usage))
        found = await drained(queue)
        assert len(found) == 32
        assert text_of(found) == "".join(f"{i}," for i in range(1000))
        assert sum(d.tokens for d in found) == 1000
        assert sum(len(d.logprobs) for d in found) == 1000
        assert (found[-1].stop, found[-1].usage) == ("x", usage)

    asyncio.run(test())


def test_a_quick_reader_gets_each_delta():
    async def test():
        queue = DeltaQueue()
        reader = asyncio.create_task(drained(queue))
        for i in range(50):
            queue.put(delta(i, finish="stop" if i == 49 else None))
            await asyncio.sleep(0)
        assert len(await reader) == 50

    asyncio.run(test())


def test_a_failure_is_told_at_once():
    """What waits is dropped: half an answer is no answer."""

    async def test():
        queue = DeltaQueue()
        queue.put(delta(0))
        queue.fail(EngineFailed("lost"))
        with pytest.raises(EngineFailed):
            await queue.get()

    asyncio.run(test())


def test_blocks_are_cut_into_frames_in_order(monkeypatch):
    """Parts of 10 bytes; a block that is larger goes alone; nothing at all is one empty part."""
    monkeypatch.setattr(wire, "PART_BYTES", 10)
    blocks = [(bytes([i]), b"x" * size) for i, size in enumerate((4, 4, 4, 30, 1))]
    parts = wire.parts(blocks)
    assert [len(part) for part in parts] == [2, 1, 1, 1]
    assert [block for part in parts for block in part] == blocks
    assert wire.parts([]) == [[]]


def test_a_frame_over_the_limit_is_not_sent(monkeypatch):
    monkeypatch.setattr(wire, "MAX_FRAME_BYTES", 100)
    with pytest.raises(wire.WireError, match="over the limit"):
        wire.encode(wire.Import(1, [(b"k", b"x" * 200)]))


def test_a_site_has_one_engine_for_each_worker(tmp_path):
    site = make_site(
        tmp_path,
        [
            {"name": "a", "engine": "emulated"},
            {"name": "b", "engine": "openai", "url": "http://127.0.0.1:1/v1"},
        ],
    )
    first, second = connect(site, RunDir(tmp_path / "r"))
    assert (type(first), first.name, first.model) == (RemoteEngine, "a", "m")
    assert (type(second), second.name, second.ready) == (OpenAIEngine, "b", False)
    asyncio.run(second.close())
