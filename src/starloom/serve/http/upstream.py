"""Connections to one server elsewhere, kept alive between requests.

No redirects, cookies, proxies or compression: a request goes out as bytes, and the answer's bytes
come back. What arrives is handed on in the callback that received it, so that a stream of events
passes through without waking a task for each of them.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

import httptools

_CONNECT_S = 5.0
_IDLE_S = 4.0
"""Shorter than servers keep their side (5 s in uvicorn, and so vLLM); a lost race costs a retry."""
_TICK_S = 1.0
_BUFFER_BYTES = 1 << 20
_KEPT = frozenset({b"content-type", b"content-length", b"transfer-encoding", b"retry-after"})


class UpstreamError(Exception):
    """No answer, or a part of one. `sent`: whether the server may have seen the request."""

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class Reply:
    """An answer as it arrives."""

    __slots__ = (
        "_bytes",
        "_error",
        "_link",
        "_parts",
        "_sink",
        "_waiter",
        "ended",
        "fields",
        "status",
    )

    def __init__(self, link: "_Link") -> None:
        self.status = 0
        self.fields: dict[bytes, bytes] = {}
        self.ended = False
        self._link: _Link | None = link
        self._parts: list[bytes] = []
        self._bytes = 0
        self._sink: Callable[[bytes], None] | None = None
        self._error: UpstreamError | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def begun(self) -> None:
        """Until status and headers are there. Raises `UpstreamError`."""
        while not self.status:
            self._raise()
            await self._news()

    async def part(self) -> bytes:
        """The next bytes of the body; none at its end. Raises `UpstreamError`."""
        while not self._parts:
            if self.ended:
                return b""
            self._raise()
            await self._news()
        data = b"".join(self._parts)
        self._parts.clear()
        self._bytes = 0
        self.hold(back=False)
        return data

    async def read(self, limit_bytes: int) -> bytes:
        """The whole body. Raises `UpstreamError`, for one over the limit too."""
        got: list[bytes] = []
        size = 0
        while part := await self.part():
            got.append(part)
            size += len(part)
            if size > limit_bytes:
                raise UpstreamError(f"the answer is over {limit_bytes} bytes")
        return got[0] if len(got) == 1 else b"".join(got)

    async def pipe(self, sink: Callable[[bytes], None]) -> None:
        """Give what comes to `sink` at once, until the end. Raises `UpstreamError`."""
        if self._parts:
            sink(b"".join(self._parts))
            self._parts.clear()
            self._bytes = 0
            self.hold(back=False)
        self._sink = sink
        while not self.ended:
            self._raise()
            await self._news()

    def hold(self, *, back: bool) -> None:
        """Leave what comes to the kernel, or read on."""
        if self._link is not None:
            self._link.hold(back=back)

    def close(self) -> None:
        """Nobody wants the rest."""
        link, self._link = self._link, None
        self._sink = None
        if link is not None and not self.ended:
            link.abort()

    def stop(self) -> None:
        """The rest is not wanted, and what came is all there is."""
        link, self._link = self._link, None
        self.ended = True
        self._sink = None
        if link is not None:
            link.abort()
        self.wake()

    # What the connection tells.

    def feed(self, data: bytes) -> None:
        if self._sink is not None:
            self._sink(data)
            return
        self._parts.append(data)
        self._bytes += len(data)
        if self._bytes > _BUFFER_BYTES:
            self.hold(back=True)
        self.wake()

    def end(self) -> None:
        self.ended = True
        self._link = None
        self.wake()

    def fail(self, error: UpstreamError) -> None:
        if not self.ended:
            self._error = error
            self._link = None
            self.wake()

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def until_eof(self) -> bool:
        """Whether the body ends with the connection."""
        coded = b"chunked" in self.fields.get(b"transfer-encoding", b"").lower()
        return bool(self.status) and not coded and b"content-length" not in self.fields

    async def _news(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error


class Upstream:
    """One server. `headers` go with every request."""

    def __init__(
        self, url: str, *, headers: Mapping[str, str] | None = None, timeout_s: float = 300.0
    ) -> None:
        parts = urlsplit(url)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self._tls else 80)
        self._base = parts.path.rstrip("/").encode()
        self._timeout_s = timeout_s
        fields = {"host": parts.netloc.rpartition("@")[2], **(headers or {})}
        self._fields = "".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode()
        self._idle: list[_Link] = []
        self._links: set[_Link] = set()
        self._ticking: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def busy(self) -> int:
        """Requests under way."""
        return sum(link.busy for link in self._links)

    async def request(
        self, method: bytes, path: bytes, body: bytes = b"", more: bytes = b""
    ) -> Reply:
        """Send, and wait for status and headers. `more` are header lines, each with its line end.

        A kept connection that the server closed meanwhile is replaced once. Raises `UpstreamError`.
        Whoever gets a reply reads it to its end or closes it.
        """
        head = b"%b %b%b HTTP/1.1\r\n%b%b" % (method, self._base, path, self._fields, more)
        if body:
            head += b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
        message = head + b"\r\n" + body
        while True:
            link = self._kept()
            kept = link is not None
            if link is None:
                link = await self._connect()
            reply = link.ask(message)
            try:
                await reply.begun()
            except UpstreamError:
                if kept and not link.heard:
                    continue  # it was closed before it could answer
                raise
            except BaseException:
                reply.close()
                raise
            return reply

    async def get(self, path: bytes, *, timeout_s: float, limit_bytes: int) -> tuple[int, bytes]:
        """A small page: its status and body. Raises `UpstreamError`."""
        try:
            async with asyncio.timeout(timeout_s):
                reply = await self.request(b"GET", path)
                try:
                    return reply.status, await reply.read(limit_bytes)
                finally:
                    reply.close()
        except TimeoutError as error:
            raise UpstreamError(f"no answer within {timeout_s:g} s") from error

    def close(self) -> None:
        """Break all connections off, and what is under way on them. There are none afterwards."""
        self._closed = True
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None
        for link in tuple(self._links):
            link.fail("closed by the gateway")

    # What connections tell.

    def release(self, link: "_Link") -> None:
        """An answer is over and the connection can take another request."""
        if self._closed:
            link.abort()
        else:
            self._idle.append(link)

    def forget(self, link: "_Link") -> None:
        """A connection is lost."""
        self._links.discard(link)
        with contextlib.suppress(ValueError):
            self._idle.remove(link)

    def _kept(self) -> "_Link | None":
        while self._idle:
            link = self._idle.pop()
            if not link.transport.is_closing():
                return link
        return None

    async def _connect(self) -> "_Link":
        loop = asyncio.get_running_loop()
        self._check_open()
        try:
            async with asyncio.timeout(_CONNECT_S):
                _, link = await loop.create_connection(
                    lambda: _Link(self), self._host, self._port, ssl=self._tls
                )
        except (OSError, TimeoutError) as error:
            why = "does not answer" if isinstance(error, TimeoutError) else error
            raise UpstreamError(f"{self._host}:{self._port}: {why}", sent=False) from error
        self._links.add(link)
        self._check_open()
        if self._ticking is None:
            self._ticking = loop.call_later(_TICK_S, self._tick)
        return link

    def _check_open(self) -> None:
        """Raise `UpstreamError` where `close` was called, with no connection left behind."""
        if self._closed:
            self.close()
            raise UpstreamError(f"{self._host}:{self._port}: closed by the gateway", sent=False)

    def _tick(self) -> None:
        """One timer for all connections of this server: who is silent for too long is lost."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        for link in tuple(self._links):
            if link.busy:
                if now - link.heard_at > self._timeout_s:
                    link.fail(f"silent for {self._timeout_s:g} s")
            elif now - link.heard_at > _IDLE_S:
                link.abort()
        self._ticking = loop.call_later(_TICK_S, self._tick)


class _Link(asyncio.Protocol):
    """One connection, one request at a time."""

    transport: asyncio.Transport

    def __init__(self, upstream: Upstream) -> None:
        self.heard = False
        """Whether any of the answer came."""
        self.heard_at = 0.0
        self._upstream = upstream
        self._parser = httptools.HttpResponseParser(self)
        self._reply: Reply | None = None
        self._fields: dict[bytes, bytes] = {}
        self._parts: list[bytes] = []
        self._complete = self._keeps = False
        self._held = False
        self._time = asyncio.get_running_loop().time

    @property
    def busy(self) -> bool:
        return self._reply is not None

    def ask(self, message: bytes) -> Reply:
        self.heard = False
        self.heard_at = self._time()
        self._reply = Reply(self)
        self.transport.write(message)
        return self._reply

    def hold(self, *, back: bool) -> None:
        if back != self._held and not self.transport.is_closing():
            self._held = back
            self.heard_at = self._time()
            if back:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def abort(self) -> None:
        self._reply = None
        self._upstream.forget(self)
        self.transport.abort()

    def fail(self, why: str) -> None:
        reply, self._reply = self._reply, None
        if reply is not None:
            reply.fail(UpstreamError(why))
        self.abort()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self.heard_at = self._time()

    def data_received(self, data: bytes) -> None:
        self.heard = True
        self.heard_at = self._time()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.fail(f"its answer is not HTTP/1.1: {error}")
            return
        reply = self._reply
        if reply is None:
            return
        if self._parts:
            parts, self._parts = self._parts, []
            reply.feed(parts[0] if len(parts) == 1 else b"".join(parts))
        if self._complete:
            self._done(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream.forget(self)
        reply, self._reply = self._reply, None
        if reply is not None:
            if reply.until_eof and exc is None:
                reply.end()
            else:
                reply.fail(UpstreamError(f"the connection broke: {exc or 'closed'}"))

    # httptools

    def on_message_begin(self) -> None:
        self._fields = {}
        self._complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name in _KEPT:
            self._fields[name] = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200 and self._reply is not None:
            self._reply.fields = self._fields
            self._reply.status = status
            self._reply.wake()

    def on_body(self, data: bytes) -> None:
        self._parts.append(data)

    def on_message_complete(self) -> None:
        self._complete = self._parser.get_status_code() >= 200
        self._keeps = self._parser.should_keep_alive()

    def _done(self, reply: Reply) -> None:
        self._complete = False
        self._reply = None
        self.hold(back=False)
        if self._keeps:
            self._upstream.release(self)
        else:
            self._upstream.forget(self)
            self.transport.close()
        reply.end()
