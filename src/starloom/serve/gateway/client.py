"""The client at the other end: its body, its patience, and how it is answered."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import msgspec

from starloom.serve.errors import BadRequest, ServeError, TooLarge
from starloom.serve.gateway.door import RawHeaders

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

_JSON = (b"content-type", b"application/json")
_CLOSE = (b"connection", b"close")
_EVENTS: RawHeaders = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
ON_GONE = "starloom.on_gone"
"""In a scope of our own server: callbacks for when the connection is lost."""


class Gone(Exception):
    """The client left before it was answered."""


class BodyTimedOut(BadRequest):
    """The body did not arrive in time."""

    status, code = 408, "body_timeout"


class Client:
    """One request's connection. `headers` are added to every answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers: RawHeaders = []
        self.streaming = False
        self.status = 0
        self._scope = scope
        self._receive = receive
        self._send = send
        self._read = False
        self._turn = asyncio.Lock()

    async def body(self, stated: bytes | None, limit_bytes: int, timeout_s: float) -> bytes:
        """The whole body. Raises `TooLarge`, `BodyTimedOut`, `Gone`."""
        if stated is not None and (not stated.isdigit() or int(stated) > limit_bytes):
            raise TooLarge(f"the body may have {limit_bytes} bytes")
        try:
            async with asyncio.timeout(timeout_s):
                return await self._counted(limit_bytes)
        except TimeoutError as error:
            raise BodyTimedOut(f"the body did not arrive within {timeout_s:g} s") from error

    async def _counted(self, limit_bytes: int) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            event = await self._receive()
            if event["type"] == "http.disconnect":
                raise Gone
            part = event.get("body", b"")
            size += len(part)
            if size > limit_bytes:
                raise TooLarge(f"the body may have {limit_bytes} bytes")
            if not event.get("more_body", False):
                self._read = True
                return part if not parts else b"".join([*parts, part])
            parts.append(part)

    async def json(self, status: int, body: bytes, headers: RawHeaders | None = None) -> None:
        """The whole answer."""
        await self.send(status, _JSON, body, headers)

    async def send(
        self,
        status: int,
        kind: tuple[bytes, bytes],
        body: bytes,
        headers: RawHeaders | None = None,
    ) -> None:
        """The whole answer, with its content type."""
        self.status = status
        fields = [kind, (b"content-length", b"%d" % len(body)), *self.headers, *(headers or ())]
        await self._send({"type": "http.response.start", "status": status, "headers": fields})
        await self._send({"type": "http.response.body", "body": body})

    async def empty(self) -> None:
        """204: all is said in the headers."""
        self.status = 204
        start = {"type": "http.response.start", "status": 204, "headers": self.headers}
        await self._send(start)
        await self._send({"type": "http.response.body", "body": b""})

    async def event(self, frame: bytes) -> None:
        """One piece of a stream of events; the first one says 200. Tasks may share a stream."""
        async with self._turn:
            if not self.streaming:
                self.streaming = True
                self.status = 200
                fields = [*_EVENTS, *self.headers]
                await self._send({"type": "http.response.start", "status": 200, "headers": fields})
            await self._send({"type": "http.response.body", "body": frame, "more_body": True})

    async def end(self, frame: bytes) -> None:
        """The last piece of a stream."""
        async with self._turn:
            await self._send({"type": "http.response.body", "body": frame})

    async def error(self, error: ServeError) -> None:
        """Tell what went wrong, in the form that the answer has taken so far."""
        body = error_body(error)
        if self.streaming:
            await self.end(b"data: " + body + b"\n\n")
            return
        headers: RawHeaders = []
        if error.retry_after_s is not None:
            headers.append((b"retry-after", b"%d" % max(1, round(error.retry_after_s + 0.5))))
        if not self._read and any(name == b"expect" for name, _ in self._scope["headers"]):
            headers.append(_CLOSE)  # whether it sends its body now is not known
        await self.json(error.status, body, headers)

    def watch(self, on_gone: Callable[[], object]) -> Callable[[], None]:
        """Call `on_gone` when the client leaves; the answer ends the watch."""
        watchers = self._scope.get(ON_GONE)
        if watchers is not None:
            watchers.add(on_gone)
            return lambda: watchers.discard(on_gone)
        task = asyncio.get_running_loop().create_task(self._wait_gone(on_gone))
        return lambda: (None, task.cancel())[0]

    async def _wait_gone(self, on_gone: Callable[[], object]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        on_gone()


def error_body(error: ServeError) -> bytes:
    """OpenAI's shape."""
    fields = {
        "message": error.message,
        "type": error.type,
        "param": error.param,
        "code": error.code,
    }
    return msgspec.json.encode({"error": fields})
