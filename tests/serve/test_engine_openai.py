"""Upstream servers that speak OpenAI's API: what is sent, and what their answers become."""

import asyncio
import json

import pytest

from starloom.serve.base import EngineRequest, Sampling
from starloom.serve.engines import OpenAIEngine
from starloom.serve.errors import BadRequest, EngineFailed, Throttled, Unavailable
from starloom.site import OpenAIWorker

from engine_fixtures import run_async, text_of, until
from upstream_fixtures import FakeUpstream, chat, sse

USAGE = {
    "prompt_tokens": 12,
    "completion_tokens": 3,
    "prompt_tokens_details": {"cached_tokens": 8},
}


def engine(url, **fields):
    worker = OpenAIWorker(
        name="up", node="n", model="m", engine="openai", url=f"{url}/base/v1/", **fields
    )
    return OpenAIEngine(worker)


def ask(path="/v1/chat/completions", **body):
    return EngineRequest(
        id="a",
        model="m",
        tokens=[],
        sampling=Sampling(max_tokens=5),
        path=path,
        body={"model": "m", "n": 3, "temperature": 0.5, **body},
    )


async def collect(one, wanted):
    try:
        return [delta async for delta in one.stream(wanted)]
    finally:
        await one.close()


def answer(upstream, wanted=None, **fields):
    async def run():
        async with upstream.serving() as url:
            return await collect(engine(url, **fields), wanted or ask())

    return asyncio.run(run())


def test_chat_chunks_become_deltas_and_usage_comes_last():
    body = sse(
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
        chat("Grüß"),
        chat(" Gott"),
        chat(None, "stop", stop_reason="\n"),
        {"choices": [], "usage": USAGE},
    )
    deltas = answer(FakeUpstream(b": comment\r\n\r\n" + body))
    assert text_of(deltas) == "Grüß Gott"
    assert [d.finish for d in deltas] == [None, None, "stop"]
    assert deltas[-1].stop == "\n"
    usage = deltas[-1].usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) == (12, 3, 8)


def test_completions_are_read_too():
    chunks = [
        {"choices": [{"index": 0, "text": text, "finish_reason": finish}]}
        for text, finish in (("a", None), ("b", "length"))
    ]
    upstream = FakeUpstream(sse(*chunks, {"choices": [], "usage": USAGE}))
    deltas = answer(upstream, ask("/v1/completions"))
    assert (text_of(deltas), deltas[-1].finish) == ("ab", "length")
    assert upstream.seen[0].path == "/base/v1/completions"


def test_the_clients_body_is_forwarded_with_the_upstreams_name(monkeypatch):
    monkeypatch.setenv("UP_KEY", "sk-secret")
    upstream = FakeUpstream(sse(chat("x", "stop")))
    answer(upstream, ask(seed=4), upstream_model="vendor/m", key_env="UP_KEY")
    [asked] = upstream.seen
    assert asked.body == {
        "model": "vendor/m",
        "n": 1,
        "temperature": 0.5,
        "seed": 4,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert asked.headers["authorization"] == "Bearer sk-secret"


def test_without_usage_chunks_are_counted():
    assert answer(FakeUpstream(sse(chat("x"), chat("y", "stop"))))[-1].usage.completion_tokens == 2


def test_logprobs_of_chat_are_kept():
    entry = {"token": "x", "logprob": -0.5, "bytes": [120]}
    probs = {"content": [{**entry, "top_logprobs": [entry]}]}
    delta = answer(FakeUpstream(sse(chat("x", "stop", logprobs=probs))))[0]
    assert (delta.logprobs[0].data, delta.logprobs[0].top) == (b"x", [("x", b"x", -0.5)])


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (429, Throttled, "slow down"),
        (400, BadRequest, "slow down"),
        (422, BadRequest, "slow down"),
        (401, Unavailable, "let us in"),
        (500, Unavailable, "500"),
        (503, Unavailable, "503"),
    ],
)
def test_errors_are_mapped(status, error, message):
    """The upstream's own words reach the client only where they are about its request."""
    body = json.dumps({"error": {"message": "slow down"}}).encode()
    with pytest.raises(error, match=message) as caught:
        answer(FakeUpstream(body, status, {"Retry-After": "7"}))
    assert caught.value.retry_after_s == (7 if status == 429 else None)


def test_an_error_page_is_no_message():
    with pytest.raises(BadRequest, match="answered 400"):
        answer(FakeUpstream(b"<html>", 400))


def test_a_stream_that_breaks_before_text_may_go_elsewhere():
    with pytest.raises(Unavailable):
        answer(FakeUpstream(b"", breaks=True))


@pytest.mark.parametrize(
    "body",
    [
        sse(chat("x"), done=False),
        sse(chat("x"), {"error": {"message": "out of memory"}}),
        sse(chat("x")) + b"data: {",
        sse(chat("x"), {"choices": [{"index": 0, "delta": {"content": 5}}]}),
        b"data: {]\n\n",
    ],
)
def test_a_stream_that_breaks_off_is_an_error(body):
    """After text, `EngineFailed`; before it another worker may answer."""
    begun = b'"x"' in body
    with pytest.raises(EngineFailed if begun else Unavailable):
        answer(FakeUpstream(body))


def test_a_request_without_a_body_is_refused():
    wanted = ask()
    wanted.body = None
    with pytest.raises(BadRequest):
        answer(FakeUpstream(), wanted)


def test_readiness_follows_the_list_of_models(monkeypatch):
    """Up while `GET /models` answers, away when it does not; each is told once."""
    monkeypatch.setattr("starloom.serve.engines.openai._LOOK_EVERY_S", 0.01)
    monkeypatch.setattr("starloom.serve.engines.openai._LOOK_AGAIN_S", 0.01)

    async def test():
        upstream = FakeUpstream()
        async with upstream.serving() as url:
            one, seen = engine(url), []
            one.on_up, one.on_down = seen.append, lambda name: seen.append(f"-{name}")
            assert not one.ready
            await one.start()
            await until(lambda: one.ready)
            upstream.models = None
            await until(lambda: not one.ready)
            upstream.models = 200
            await until(lambda: one.ready)
            await one.close()
            assert not one.ready
        assert seen == ["up", "-up", "up", "-up"]

    run_async(test)


def test_what_upstream_counted_is_reported():
    upstream = FakeUpstream(sse(chat("x", "stop"), {"choices": [], "usage": USAGE}))

    async def run():
        async with upstream.serving() as url:
            one = engine(url)
            await collect(one, ask())
            return one.report()

    report = asyncio.run(run())
    assert (report.running, report.prompt_tokens_total, report.cached_tokens_total) == (0, 12, 8)
    assert report.generated_tokens_total == 3
