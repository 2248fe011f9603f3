"""A vLLM that computes nothing: its KV events, its metrics page and its API, by recorded shapes.

`FakeCache` is what an engine's block pool does and says. `FakeVllm` puts it on real sockets of
loopback: ZeroMQ PUB and ROUTER as `vllm/distributed/kv_events.py` has them, and HTTP with the legs
of NixlConnector. Messages can be dropped on demand.
"""

import asyncio
import contextlib
import hashlib
from collections import Counter, deque

import msgspec
import uvicorn
import zmq
import zmq.asyncio
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route

from starloom.kv import block_keys
from starloom.serve.signals import Cleared, Removed, Stored, root_of_salt

END = (-1).to_bytes(8, "big", signed=True)


def encoded(events, form="map", rank=None):
    """A batch as msgspec writes vLLM's structs: fields at their default are left out.

    `map` is vLLM since pull request 42892, `array` vLLM before and SGLang.
    """
    if form == "map":
        batch = {"ts": 1.5, "events": [_trimmed(event) for event in events]}
        if rank is not None:
            batch["data_parallel_rank"] = rank
        return msgspec.msgpack.encode(batch)
    batch = [1.5, [_positional(event) for event in events]]
    return msgspec.msgpack.encode(batch if rank is None else [*batch, rank])


_REQUIRED = {
    "BlockStored": (
        *("block_hashes", "parent_block_hash", "token_ids", "block_size"),
        *("lora_id", "medium", "lora_name"),
    ),
    "BlockRemoved": ("block_hashes", "medium"),
    "AllBlocksCleared": (),
}
_OPTIONAL = {
    "BlockStored": ("extra_keys", "group_idx", "kv_cache_spec_kind"),
    "BlockRemoved": ("group_idx",),
    "AllBlocksCleared": (),
}


def _trimmed(event):
    required = {name: event.get(name) for name in _REQUIRED[event["type"]]}
    given = {name: value for name, value in event.items() if value is not None}
    return {"type": event["type"], **required, **given}


def _positional(event):
    kind = event["type"]
    values = [event.get(name) for name in _REQUIRED[kind]]
    optional = [event.get(name) for name in _OPTIONAL[kind]]
    while optional and optional[-1] is None:
        optional.pop()
    return [kind, *values, *optional]


class FakeCache:
    """Blocks by the engine's own hash, seeded as a vLLM process is; copies are kept apart."""

    def __init__(self, block_tokens=4, seed=b"0", hashes_as="int"):
        self.block_tokens = block_tokens
        self._seed = seed
        self._as_bytes = hashes_as == "bytes"
        self.copies = Counter()
        self._prefix = {}
        self.events = []

    def store(self, tokens, salt=None, lora_name=None, medium="GPU", first=0):
        """Cache the full blocks of `tokens` from block `first` on, those before being held."""
        size = self.block_tokens
        parent, hashes, extras = None, [], []
        for at in range(len(tokens) // size):
            extra = [name for name in (lora_name, salt if at == 0 else None) if name is not None]
            block = tokens[at * size : (at + 1) * size]
            own = self._hash(parent, block, extra)
            if at < first:
                parent = own
                continue
            if at == first:
                before = parent
            hashes.append(own)
            extras.append(extra or None)
            self.copies[own] += 1
            self._prefix[own] = (salt, lora_name, tuple(tokens[: (at + 1) * size]))
            parent = own
        if hashes:
            self.events.append(
                {
                    "type": "BlockStored",
                    "block_hashes": hashes,
                    "parent_block_hash": before,
                    "token_ids": list(tokens[first * size : (first + len(hashes)) * size]),
                    "block_size": size,
                    "medium": medium,
                    "lora_name": lora_name,
                    "extra_keys": extras if any(extras) else None,
                }
            )
        return hashes

    def held_blocks(self, tokens, salt=None):
        """How many leading blocks of `tokens` are held."""
        held = {self._prefix[each] for each in self.copies}
        size = self.block_tokens
        at = 0
        while (at + 1) * size <= len(tokens) and (
            salt,
            None,
            tuple(tokens[: (at + 1) * size]),
        ) in held:
            at += 1
        return at

    def remove(self, own):
        """Evict one copy of a block."""
        self.copies[own] -= 1
        if not self.copies[own]:
            del self.copies[own]
        self.events.append({"type": "BlockRemoved", "block_hashes": [own], "medium": "GPU"})

    def clear(self):
        self.copies.clear()
        self.events.append({"type": "AllBlocksCleared"})

    def take(self):
        events, self.events = self.events, []
        return events

    def truth(self):
        """Our keys of what is held, computed from whole prefixes and without any event."""
        size = self.block_tokens
        return {
            block_keys(root_of_salt(salt), tokens, size)[-1]
            for salt, _, tokens in map(self._prefix.__getitem__, self.copies)
            if salt is not None and root_of_salt(salt) is not None
        }

    def _hash(self, parent, block, extra):
        text = repr((self._seed, parent, block, extra)).encode()
        digest = hashlib.sha256(text).digest()
        return digest if self._as_bytes else int.from_bytes(digest[-8:], "big")


class FakePublisher:
    """The sequence and the replay buffer of one rank, without sockets."""

    def __init__(self, form="map", buffer_steps=10_000, topic="kv-events", rank=None):
        self.form, self.topic, self.rank = form, topic.encode(), rank
        self.buffer = deque(maxlen=buffer_steps)
        self.sequence = 0

    def frames(self, events):
        number = self.sequence.to_bytes(8, "big")
        payload = encoded(events, self.form, self.rank)
        self.buffer.append((number, payload))
        self.sequence += 1
        return [self.topic, number, payload]

    def replay(self, start):
        """What the ROUTER answers, its end included."""
        since = [(b"", n, p) for n, p in self.buffer if int.from_bytes(n, "big") >= start]
        return [*since, (b"", END, b"")]


class FakeVllm:
    """One server: `async with`. `page` is its metrics page, `seen` the bodies that it was sent."""

    def __init__(self, *, form="map", block_tokens=4, buffer_steps=10_000, role="both"):
        self.block_tokens, self.role = block_tokens, role
        self._form, self._steps = form, buffer_steps
        self.page = b""
        self.statuses = []
        """Statuses of the next answers, before all is well again."""
        self.drop = False
        self.mute_replay = False
        self.seen = []
        self.replays = []
        self.scrapes = 0
        self.cache = FakeCache(block_tokens)
        self._publisher = FakePublisher(form, buffer_steps)
        self._ports = None

    async def __aenter__(self):
        self._context = zmq.asyncio.Context()
        await self._bind()
        await self._serve()
        return self

    async def __aexit__(self, *_):
        self._server.should_exit = True
        await self._serving
        await self._unbind()
        self._context.destroy(linger=0)

    async def _bind(self):
        self._pub = self._context.socket(zmq.PUB)
        self._router = self._context.socket(zmq.ROUTER)
        pub, router = self._ports or (0, 0)
        self._ports = (await _bound(self._pub, pub), await _bound(self._router, router))
        self._replaying = asyncio.create_task(self._answer_replays())

    async def _unbind(self):
        self._replaying.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._replaying
        self._pub.close(linger=0)
        self._router.close(linger=0)

    @property
    def endpoint(self):
        return f"tcp://127.0.0.1:{self._ports[0]}"

    @property
    def replay_endpoint(self):
        return f"tcp://127.0.0.1:{self._ports[1]}"

    async def restart(self, seed=b"1"):
        """A new process in the same place: another seed, an empty cache, numbers from 0."""
        await self._unbind()
        self.cache = FakeCache(self.block_tokens, seed)
        self._publisher = FakePublisher(self._form, self._steps)
        await self._bind()

    async def away(self):
        await self._unbind()

    async def back(self):
        await self._bind()

    async def publish(self):
        """One batch of what the cache did since the last one."""
        frames = self._publisher.frames(self.cache.take())
        if not self.drop:
            await self._pub.send_multipart(frames)

    async def _answer_replays(self):
        while True:
            client, _, start = await self._router.recv_multipart()
            self.replays.append(int.from_bytes(start, "big"))
            if not self.mute_replay:
                for frames in self._publisher.replay(self.replays[-1]):
                    await self._router.send_multipart([client, *frames])

    async def _serve(self):
        routes = [
            Route("/metrics", self._metrics),
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
        ]
        config = uvicorn.Config(Starlette(routes=routes), port=0, log_level="error", lifespan="off")
        self._server = uvicorn.Server(config)
        self._server.capture_signals = contextlib.nullcontext
        self._serving = asyncio.create_task(self._server.serve())
        while not self._server.started:
            await asyncio.sleep(0.005)
        [listener] = self._server.servers[0].sockets
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"

    async def _metrics(self, _):
        self.scrapes += 1
        return PlainTextResponse(self.page)

    async def _chat(self, asked):
        body = await asked.json()
        self.seen.append((dict(asked.headers), body))
        if self.statuses and (status := self.statuses.pop(0)) != 200:
            return JSONResponse({"error": {"message": "busy", "code": status}}, status)
        tokens = list(" ".join(m["content"] for m in body["messages"]).encode())
        salt, transfer = body.get("cache_salt"), body.get("kv_transfer_params") or {}
        held = self.cache.held_blocks(tokens, salt)
        cached = held * self.block_tokens
        if transfer.get("do_remote_prefill"):
            cached = len(tokens)
        self.cache.store(tokens, salt, first=held)
        usage = {
            "prompt_tokens": len(tokens),
            "completion_tokens": 1,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        if body.get("stream"):
            return StreamingResponse(_sse(usage), media_type="text/event-stream")
        reply = {"choices": [{"index": 0, "message": {"content": "x"}}], "usage": usage}
        if transfer.get("do_remote_decode"):
            reply["kv_transfer_params"] = {
                "do_remote_prefill": True,
                "do_remote_decode": False,
                "remote_block_ids": [[1, 2]],
                "remote_engine_id": "engine-p",
                "remote_request_id": "r",
                "remote_host": "127.0.0.1",
                "remote_port": 5600,
                "tp_size": 1,
            }
        return JSONResponse(reply)


async def _sse(usage):
    delta = {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}]}
    for chunk in (delta, {"choices": [], "usage": usage}):
        yield b"data: " + msgspec.json.encode(chunk) + b"\n\n"
    yield b"data: [DONE]\n\n"


async def _bound(socket, port):
    """The port; a socket that was just closed may still hold it for a moment."""
    for _ in range(500):
        try:
            socket.bind(f"tcp://127.0.0.1:{port or '*'}")
        except zmq.ZMQError as error:
            if error.errno != zmq.EADDRINUSE:
                raise
            await asyncio.sleep(0.01)
        else:
            return int(socket.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
    raise AssertionError(f"port {port} is not given back")


class HeldSink:
    """An index that minds its contract: whole chains, nothing twice, nothing absent."""

    def __init__(self):
        self.held = {}
        self.clears = 0

    def stored(self, name, parent, keys, tier="hbm"):
        held = self.held.setdefault(name, set()) if tier == "hbm" else set()
        assert keys
        assert parent is None or isinstance(parent, bytes)
        assert held.isdisjoint(keys)
        assert len(set(keys)) == len(keys)
        held.update(keys)

    def removed(self, name, keys, tier="hbm"):
        if tier == "hbm":
            assert self.held[name].issuperset(keys)
            self.held[name].difference_update(keys)

    def cleared(self, name):
        self.clears += 1
        self.held[name] = set()

    def do(self, worker, told):
        """Do a reader's operation; `NeedReplay` is returned."""
        if isinstance(told, Stored):
            self.stored(worker, told.parent, told.keys, told.tier)
        elif isinstance(told, Removed):
            self.removed(worker, told.keys, told.tier)
        elif isinstance(told, Cleared):
            self.cleared(worker)
        else:
            return told
        return None
