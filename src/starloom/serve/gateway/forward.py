"""Answers of servers elsewhere, passed on as they come.

The client's body goes to the server, and the server's bytes to the client: nothing of them is taken
apart but for what the guard has to see and for the token counts. So whatever the server's API can
do (tools, JSON mode, log probabilities, n answers) works through us too.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import Any, cast

import msgspec

from starloom.serve.base import Usage
from starloom.serve.engines import Forwarder
from starloom.serve.engines.sse import BadStream
from starloom.serve.errors import EngineFailed, ServeError, Unavailable
from starloom.serve.gateway.api import HANDS_OVER, Asked
from starloom.serve.gateway.client import JSON, Answering
from starloom.serve.gateway.outlet import Outlets
from starloom.serve.gateway.passing import Passing, UsageOf
from starloom.serve.gateway.record import Tracker
from starloom.serve.gateway.workers import Tries, Workers
from starloom.serve.http import Reply, UpstreamError
from starloom.serve.schedule import Ask, Ticket
from starloom.serve.signals.roots import cache_salt

_ANSWER_BYTES = 64 << 20


class Forward:
    """Sends whole requests to workers elsewhere, another one if the first cannot."""

    def __init__(
        self,
        workers: Workers,
        outlets: Callable[[Tracker, int], Outlets | None],
        now: Callable[[], float],
        wait_s: float,
    ) -> None:
        self._workers = workers
        self._outlets = outlets
        self._now = now
        self._wait_s = wait_s

    async def answer(
        self,
        path: str,
        raw: bytes,
        body: Asked,
        ask: Ask,
        tracker: Tracker,
        client: Answering,
        never: Collection[str] = (),
        root: bytes = b"",
    ) -> Usage:
        """See one request through. Nothing is tried again once the client has been sent a byte.

        `never` names workers that cannot take it; `root` is what walls its cached prefixes off.
        """
        tries = Tries(self._workers, body.model, ask, never, self._wait_s, self._now)
        while True:
            ticket = await tries.next()
            tracker.record.workers[0] = ticket.worker
            tracker.step("schedule", ticket.worker, ticket.why)
            try:
                return await self._attempt(path, raw, body, ask, root, ticket, tracker, client)
            except (Unavailable, EngineFailed) as error:
                tracker.step("failed", ticket.worker, error.message)
                tries.failed(ticket.worker, error, begun=client.started)
            finally:
                ticket.end()

    async def _attempt(
        self,
        path: str,
        raw: bytes,
        body: Asked,
        ask: Ask,
        root: bytes,
        ticket: Ticket,
        tracker: Tracker,
        client: Answering,
    ) -> Usage:
        engine = cast("Forwarder", self._workers.engines[ticket.worker])  # as `Able.elsewhere` says
        salt = cache_salt(root) if engine.salted and root else None
        sent = outgoing(raw, body, engine.upstream_model, salt)
        reply = await engine.forward(path, sent, tracker.passed)
        return await self.passed(reply, engine, body, ask, ticket, tracker, client)

    async def passed(
        self,
        reply: Reply,
        engine: Forwarder,
        body: Asked,
        ask: Ask,
        ticket: Ticket,
        tracker: Tracker,
        client: Answering,
        *,
        helper: str = "",
        usage_of: UsageOf | None = None,
    ) -> Usage:
        """Pass one answer on to the client, past the guard, and count it.

        `helper` names another worker that had a part in it; `usage_of` corrects what it says of
        its tokens. Raises `Unavailable` or `EngineFailed` where the answer breaks off.
        """
        names = f"{helper},{ticket.worker}" if helper else ticket.worker
        header = (b"x-starloom-worker", names.encode())
        shown = body.model if engine.upstream_model != body.model else None
        passing = Passing(
            shown,
            self._outlets(tracker, ask.prompt_tokens),
            n=body.n or 1,
            hide_usage=not body.include_usage,
            usage_of=usage_of,
        )

        def began() -> None:
            ticket.first_token(self._now())
            tracker.token()

        try:
            if body.stream and not reply.fields.get(b"content-type", b"").startswith(JSON):
                client.headers.append(header)
                await _stream(reply, passing, began, client)
            else:
                data = passing.body(await reply.read(_ANSWER_BYTES))
                began()
                client.headers.append(header)
                client.json(200, data)
        except (UpstreamError, BadStream) as error:
            raise engine.lost(error, begun=client.started) from error
        finally:
            passing.close()
            reply.close()
        usage = passing.usage or Usage(
            prompt_tokens=ask.prompt_tokens, completion_tokens=passing.chunks
        )
        ticket.end(self._now(), usage.completion_tokens)
        engine.counted(usage)
        return usage


async def _stream(
    reply: Reply, passing: Passing, began: Callable[[], object], client: Answering
) -> None:
    """Pass events on in the callbacks that bring them; hold the server back for a slow client."""
    begun = False
    failure: Exception | None = None
    waiting: set[asyncio.Task[None]] = set()

    async def until_drained() -> None:
        await client.drained()
        reply.hold(back=False)

    def sink(data: bytes) -> None:
        nonlocal begun, failure
        if failure is not None:
            return
        try:
            data = passing.events(data)
            if not data:
                return
            if begun:
                client.write(data)
            else:
                begun = True
                began()
                client.open(data)
        except (BadStream, ServeError) as error:
            failure = error
            reply.fail(UpstreamError(str(error)))
            return
        if passing.cut:
            reply.stop()
        elif client.slow():
            reply.hold(back=True)
            if not waiting:
                task = asyncio.ensure_future(until_drained())
                waiting.add(task)
                task.add_done_callback(waiting.discard)

    try:
        await reply.pipe(sink)
    finally:
        for task in tuple(waiting):
            task.cancel()
    last = passing.end()
    if not passing.done:
        raise UpstreamError("the stream ended before the answer did")
    if begun:
        client.finish(last)
    else:
        client.open(last)
        client.finish()


def outgoing(raw: bytes, body: Asked, upstream_model: str, salt: str | None = None) -> bytes:
    """The client's body as the server gets it: its name of the model, usage asked for, our salt.

    The bytes stay as they are but for what is put in front, where that says all.
    """
    asks_usage = bool(body.stream) and not body.include_usage
    stated = (asks_usage and body.stream_options is not None) or (salt and body.cache_salt)
    if upstream_model == body.model and not stated and not body.hands_over:
        front = b'{"stream_options":{"include_usage":true},' if asks_usage else b""
        if salt is not None:
            front = (front or b"{") + b'"cache_salt":"%b",' % salt.encode()
        return front + raw.lstrip()[1:] if front else raw
    return msgspec.json.encode(changed(raw, body, upstream_model, salt))


def changed(raw: bytes, body: Asked, upstream_model: str, salt: str | None) -> dict[str, Any]:
    """As `outgoing`, taken apart."""
    own: dict[str, Any] = {**msgspec.json.decode(raw), "model": upstream_model}
    for name in HANDS_OVER:
        own.pop(name, None)
    if salt is not None:
        own["cache_salt"] = salt
    if body.stream and not body.include_usage:
        options = own.get("stream_options")
        options = options if isinstance(options, Mapping) else {}
        own["stream_options"] = {**options, "include_usage": True}
    return own
