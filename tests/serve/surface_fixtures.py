"""A gateway whose model `m` has an engine of ours, a server elsewhere, or both."""

import contextlib
import json

from starloom.serve.engines import OpenAIEngine
from starloom.serve.guard import Guard
from starloom.site import Site

from gateway_fixtures import SHAPE, FakeEngine, serving, until, write_model
from upstream_fixtures import FakeUpstream, in_thread, sse

USAGE = {
    "prompt_tokens": 12,
    "completion_tokens": 3,
    "total_tokens": 15,
    "prompt_tokens_details": {"cached_tokens": 5},
}
FUNCTION = {"name": "weather", "description": "of a place", "parameters": {"type": "object"}}
TOOLS = [{"type": "function", "function": FUNCTION}]


def whole(message, finish="stop", **more):
    """A chat's answer."""
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish}
    return json.dumps(
        {
            "id": "x",
            "object": "chat.completion",
            "created": 1,
            "model": "m",
            "choices": [{**choice, **more}],
            "usage": USAGE,
        }
    ).encode()


def stream(*deltas, finish="stop", **more):
    """A chat's answer in events, with its usage."""
    base = {"id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    chunks = [{**base, "choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    last = {"index": 0, "delta": {}, "finish_reason": finish, **more}
    return sse(*chunks, {**base, "choices": [last]}, {**base, "choices": [], "usage": USAGE})


def call(arguments, index=0, **named):
    """A piece of a call of a tool; `named` begins one."""
    function = {"arguments": arguments, **({"name": named["name"]} if named else {})}
    begun = {"id": named["id"], "type": "function"} if named else {}
    return {"tool_calls": [{"index": index, **begun, "function": function}]}


def said(call_id="call_1", name="weather", arguments='{"city": "Ulm"}'):
    """A whole call of a tool."""
    return {
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def site_of(folder, url=None, *, own=True, tokenizer=True, words=(), limits=None, **more):
    """`m` with `w1` of ours if `own`, and `w0` elsewhere if there is a `url`."""
    model = {"name": "m"}
    if tokenizer:
        write_model(folder / "m")
        model |= {"tokenizer": "m", "shape": SHAPE, "block_tokens": 16, "context_tokens": 2048}
    workers = []
    if own:
        workers.append({"name": "w1", "node": "n", "model": "m", "engine": "emulated"})
    if url is not None:
        there = {"engine": "openai", "url": f"{url}/v1"}
        workers.append({"name": "w0", "node": "n", "model": "m", **there})
    data = {
        "name": "t",
        "base": str(folder),
        "gateway": {"port": 0, "limits": limits or {}},
        "nodes": [{"name": "n"}],
        "models": [model],
        "workers": workers,
        "guard": {"lists": [{"name": "l", "words": list(words)}] if words else []},
        **more,
    }
    return Site.model_validate(data)


@contextlib.contextmanager
def surface(
    folder,
    fake=None,
    *,
    own=False,
    script=None,
    words=(),
    tokenizer=None,
    tenants=(),
    limits=None,
    **more,
):
    """A gateway before `fake`, a `FakeUpstream`; with an engine of ours too if `own`."""
    with contextlib.ExitStack() as stack:
        url = None if fake is None else stack.enter_context(in_thread(fake))
        tokenizer = own if tokenizer is None else tokenizer
        site = site_of(
            folder,
            url,
            own=own,
            tokenizer=tokenizer,
            words=words,
            tenants=[*tenants],
            limits=limits,
        )
        workers = [site.worker(worker.name) for worker in site.workers]
        engines = [
            FakeEngine(w.name, script=script) if w.name == "w1" else OpenAIEngine(w)
            for w in workers
        ]
        guard = Guard.from_site(site) if words else None
        gate = stack.enter_context(serving(site, engines, guard=guard, **more))
        up = gate.app._line._workers.is_up
        until(lambda: all(up(engine.name) for engine in engines))
        yield gate


def fakes(body):
    """A server that answers streams with events and others whole: a pair of bodies."""
    in_one, in_events = body
    return FakeUpstream(lambda asked: in_events if asked.body.get("stream") else in_one)
