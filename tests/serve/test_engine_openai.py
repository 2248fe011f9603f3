"""Upstream servers that speak OpenAI's API: what is sent, and what their answers become."""

import asyncio
import json

import httpx
import pytest

from starloom.serve.base import EngineRequest, Sampling
from starloom.serve.engines import OpenAIEngine
from starloom.serve.errors import BadRequest, EngineFailed, Throttled, Unavailable
from starloom.site import OpenAIWorker

from engine_fixtures import run_async, text_of, until

USAGE = {
    "prompt_tokens": 12,
    "completion_tokens": 3,
    "prompt_tokens_details": {"cached_tokens": 8},
}


class Upstream:
    """A server in memory: answers with `status`, `body`, `headers`; remembers what it was sent."""

    def __init__(self, body=b"", status=200, headers=None, breaks=False):
        self.body, self.status, self.headers, self.breaks = body, status, headers or {}, breaks
        self.seen: list[httpx.Request] = []
        self.models = 200

    async def __call__(self, asked: httpx.Request) -> httpx.Response:
        if asked.url.path.endswith("/models"):
            if self.models is None:
                raise httpx.ConnectError("nobody listens")
            return httpx.Response(self.models, json={"data": []})
        await asked.aread()
        self.seen.append(asked)
        return httpx.Response(self.status, headers=self.headers, stream=Body(self))

    async def parts(self):
        for at in range(0, len(self.body), 7):  # cut anywhere
            yield self.body[at : at + 7]
        if self.breaks:
            raise httpx.ReadError("reset")


class Body(httpx.AsyncByteStream):
    def __init__(self, upstream):
        self._upstream = upstream

    async def __aiter__(self):
        async for part in self._upstream.parts():
            yield part


def engine(upstream, **fields):
    worker = OpenAIWorker(
        name="up", node="n", model="m", engine="openai", url="http://up:1/base/v1/", **fields
    )
    return OpenAIEngine(worker, transport=httpx.MockTransport(upstream))


def ask(path="/v1/chat/completions", **body):
    return EngineRequest(
        id="a",
        model="m",
        tokens=[],
        sampling=Sampling(max_tokens=5),
        path=path,
        body={"model": "m", "n": 3, "temperature": 0.5, **body},
    )


def sse(*chunks, done=True):
    events = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return ("".join(events) + ("data: [DONE]\n\n" if done else "")).encode()


def chat(text=None, finish=None, **more):
    choice = {"index": 0, "delta": {} if text is None else {"content": text}, **more}
    return {"choices": [{**choice, "finish_reason": finish}]}


async def collect(one, wanted):
    try:
        return [delta async for delta in one.stream(wanted)]
    finally:
        await one.close()


def answer(upstream, wanted=None, **fields):
    return asyncio.run(collect(engine(upstream, **fields), wanted or ask()))


def test_chat_chunks_become_deltas_and_usage_comes_last():
    body = sse(
        {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
        chat("Grüß"),
        chat(" Gott"),
        chat(None, "stop", stop_reason="\n"),
        {"choices": [], "usage": USAGE},
    )
    deltas = answer(Upstream(b": comment\r\n\r\n" + body))
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
    upstream = Upstream(sse(*chunks, {"choices": [], "usage": USAGE}))
    deltas = answer(upstream, ask("/v1/completions"))
    assert (text_of(deltas), deltas[-1].finish) == ("ab", "length")
    assert upstream.seen[0].url == "http://up:1/base/v1/completions"


def test_the_clients_body_is_forwarded_with_the_upstreams_name(monkeypatch):
    monkeypatch.setenv("UP_KEY", "sk-secret")
    upstream = Upstream(sse(chat("x", "stop")))
    answer(upstream, ask(seed=4), upstream_model="vendor/m", key_env="UP_KEY")
    [asked] = upstream.seen
    assert json.loads(asked.content) == {
        "model": "vendor/m",
        "n": 1,
        "temperature": 0.5,
        "seed": 4,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert asked.headers["authorization"] == "Bearer sk-secret"


def test_without_usage_chunks_are_counted():
    assert answer(Upstream(sse(chat("x"), chat("y", "stop"))))[-1].usage.completion_tokens == 2


def test_logprobs_of_chat_are_kept():
    entry = {"token": "x", "logprob": -0.5, "bytes": [120]}
    probs = {"content": [{**entry, "top_logprobs": [entry]}]}
    delta = answer(Upstream(sse(chat("x", "stop", logprobs=probs))))[0]
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
        answer(Upstream(body, status, {"Retry-After": "7"}))
    assert caught.value.retry_after_s == (7 if status == 429 else None)


def test_an_error_page_is_no_message():
    with pytest.raises(BadRequest, match="answered 400"):
        answer(Upstream(b"<html>", 400))


def test_a_stream_that_breaks_before_text_may_go_elsewhere():
    with pytest.raises(Unavailable):
        answer(Upstream(b"", breaks=True))


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
        answer(Upstream(body))


def test_a_request_without_a_body_is_refused():
    wanted = ask()
    wanted.body = None
    with pytest.raises(BadRequest):
        answer(Upstream(), wanted)


def test_readiness_follows_the_list_of_models(monkeypatch):
    """Up while `GET /models` answers, away when it does not; each is told once."""
    monkeypatch.setattr("starloom.serve.engines.openai._LOOK_EVERY_S", 0.01)
    monkeypatch.setattr("starloom.serve.engines.openai._LOOK_AGAIN_S", 0.01)

    async def test():
        upstream = Upstream()
        one, seen = engine(upstream), []
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
    upstream = Upstream(sse(chat("x", "stop"), {"choices": [], "usage": USAGE}))
    one = engine(upstream)
    asyncio.run(collect(one, ask()))
    report = one.report()
    assert (report.running, report.prompt_tokens_total, report.cached_tokens_total) == (0, 12, 8)
    assert report.generated_tokens_total == 3
