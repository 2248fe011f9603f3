"""Servers elsewhere that compute halves of requests, as vLLM and SGLang behave from outside."""

import asyncio
import contextlib
import json
import time

from starloom.serve.engines import OpenAIEngine
from starloom.site import Site

from gateway_fixtures import serving, until
from upstream_fixtures import FakeUpstream, chat, in_thread, sse


class Network:
    """What servers of one site share: leased blocks by request, and rooms."""

    def __init__(self):
        self.leases = {}
        self.rooms = {}


class FakeHalf(FakeUpstream):
    """One server. `statuses` are those of the next answers, before all is well again.

    `work_s` is how long a leg takes; `dies` is the kind of leg on which the connection breaks
    before the first byte.
    """

    def __init__(self, network, *, lease_s=30.0, work_s=0.0, statuses=(), dies=None):
        super().__init__(part_bytes=1 << 16)
        self.network, self.lease_s, self.work_s = network, lease_s, work_s
        self.statuses, self.dies = [*statuses], dies
        self.ran = []
        """Kinds of the legs that were answered."""
        self.left = 0
        """Legs whose client went away."""
        self.cached = 4

    def kill(self):
        """From any thread: refuse who comes, break off who is there."""
        asyncio.run_coroutine_threadsafe(self.stop(), self._server.get_loop()).result(5)

    def bodies(self):
        return [asked.body for asked in self.seen]

    async def _answer(self, asked, writer):
        body = asked.body
        kind = self._kind(body)
        if self.dies == kind:
            writer.transport.abort()
            raise ConnectionError
        if self.statuses and (status := self.statuses.pop(0)) != 200:
            error = {"error": {"message": f"told to answer {status}"}}
            await self._say(status, json.dumps(error).encode(), writer)
            return
        status, more = await self._work(kind, asked, writer)
        if status != 200:
            await self._say(status, json.dumps(more).encode(), writer)
            return
        self.ran.append(kind)
        await self._say(200, self._made(body, more, asked.path), writer)

    def _made(self, body, more, path):
        prompts = body.get("prompt", "")
        count = len(prompts) if isinstance(prompts, list) else 1
        count *= body.get("n", 1)
        size = 11 * count
        details = {"cached_tokens": size if "handed" in more else self.cached}
        usage = {"prompt_tokens": size, "completion_tokens": 2, "prompt_tokens_details": details}
        more = {key: value for key, value in more.items() if key != "handed"}
        if "failed" in more:
            return sse(more["failed"])  # the status was sent before the engine knew
        if body.get("stream"):
            last = {"choices": [], "usage": usage}
            events = [chat("Hel"), chat("lo"), chat(None, "stop")]
            if self.breaks:
                return sse(*events[:1], done=False)
            return sse(*events, last)
        message = {"role": "assistant", "content": "Hello"}
        said = {"text": "Hello"} if path == "/v1/completions" else {"message": message}
        choices = [{"index": at, **said, "finish_reason": "stop"} for at in range(count)]
        return json.dumps(
            {"model": body["model"], "choices": choices, "usage": usage, **more}
        ).encode()

    async def _worked(self, writer, done=None):
        """Until `work_s` are over and `done()`; breaks off where the client goes away."""
        until_s = time.monotonic() + self.work_s
        while time.monotonic() < until_s or not (done is None or done()):
            if self._writers[writer].at_eof() or writer.transport.is_closing():
                self.left += 1
                raise ConnectionError
            await asyncio.sleep(0.003)


class FakeVllmHalf(FakeHalf):
    """As vLLM with NixlConnector and `kv_load_failure_policy: fail`, which computes either half."""

    def _kind(self, body):
        taken = body.get("kv_transfer_params") or {}
        if taken.get("do_remote_decode"):
            return "prefill"
        return "decode" if taken.get("do_remote_prefill") else "whole"

    async def _work(self, kind, asked, writer):
        request, body = asked.headers.get("x-request-id"), asked.body
        await self._worked(writer)
        if kind == "prefill":
            assert (body["stream"], body["max_tokens"], body["n"]) == (False, 1, 1)
            self.network.leases[request] = time.monotonic() + self.lease_s
            taken = {"do_remote_prefill": True, "do_remote_decode": False}
            taken |= {"remote_request_id": request, "remote_block_ids": [[1, 2]], "a_new_field": 1}
            return 200, {"kv_transfer_params": taken}
        if kind == "whole":
            return 200, {}
        taken = body["kv_transfer_params"]
        assert taken["a_new_field"] == 1
        until_s = self.network.leases.pop(taken["remote_request_id"], 0.0)
        if taken["remote_request_id"] != request or time.monotonic() > until_s:
            error = {"error": {"message": "KV load failed"}}
            return (200, {"failed": error}) if body["stream"] else (500, error)
        return 200, {"handed": True}


class FakeSglangHalf(FakeHalf):
    """As SGLang with `--disaggregation-mode`: nothing without a room, where both halves meet."""

    def __init__(self, network, mode, **more):
        super().__init__(network, **more)
        self.mode = mode
        self.breaks_down = False
        """Whether its next stream is an error, after a status of 200."""

    def _kind(self, body):
        return self.mode

    async def _work(self, kind, asked, writer):
        if self.breaks_down:
            self.breaks_down = False
            return 200, {"failed": {"error": {"message": "out of memory", "code": 500}}}
        room = asked.body.get("bootstrap_room")
        if room is None:
            return 400, {"error": {"message": "request received without bootstrap room id"}}
        meeting = self.network.rooms.setdefault(str(room), {})
        assert kind not in meeting, "a room is used twice"
        meeting[kind] = asked.body
        other = "decode" if kind == "prefill" else "prefill-done"
        await self._worked(writer, lambda: other in meeting)
        meeting[f"{kind}-done"] = True
        return 200, {}


def half_site(tmp_path, halves, *, disagg="vllm", words=(), tenants=(), **more):
    """A site of one model `m`. `halves`: worker's name -> (role, address)."""
    workers = [
        {"name": name, "node": "n", "model": "m", "engine": "openai", "url": f"{url}/v1"}
        | {"role": role, "disagg": disagg}
        for name, (role, url) in halves.items()
    ]
    data = {
        "name": "t",
        "base": str(tmp_path),
        "gateway": {"port": 0},
        "nodes": [{"name": "n"}],
        "models": [{"name": "m"}],
        "workers": workers,
        "tenants": [{"name": name} for name in tenants],
        "guard": {"lists": [{"name": "l", "words": list(words)}] if words else []},
        "schedule": {"policy": "least_outstanding"},
    }
    return Site.model_validate({**data, **more})


@contextlib.contextmanager
def apart(tmp_path, fakes, *, guard=None, log=None, **more):
    """A gateway before fakes by name: p... compute prompts, d... answer."""
    with contextlib.ExitStack() as stack:
        urls = {name: stack.enter_context(in_thread(fake)) for name, fake in fakes.items()}
        roles = {"p": "prefill", "d": "decode"}
        site = half_site(tmp_path, {n: (roles[n[0]], url) for n, url in urls.items()}, **more)
        engines = [OpenAIEngine(worker) for worker in site.workers]
        told = {"guard": guard(site)} if guard is not None else {}
        gate = stack.enter_context(serving(site, engines, log=log, wait_s=0.3, **told))
        gate.workers = gate.app._line._workers
        until(lambda: all(gate.workers.is_up(name) for name in fakes))
        yield gate
        idle = dict.fromkeys(fakes, 0)
        until(lambda: gate.outstanding() == idle)
        views = gate.workers.table._rows.values()
        assert all(
            (row.view.prefills, row.view.prefill_tokens, row.view.context_tokens) == (0, 0, 0)
            for row in views
        )
