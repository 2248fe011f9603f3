"""Connections of clients, with bounds on what each can hold open before it is known.

Header bytes, the time until headers are complete, idle time and connections are limited here; the
body's size and time where it is read (`Exchange.body`).
"""

import asyncio
import email.utils
import time
import urllib.parse
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from typing import Generic, TypeVar

import httptools

from starloom.serve.errors import BadRequest, ServeError, Unavailable
from starloom.serve.http.exchange import STATUS_LINES, Exchange
from starloom.site import Limits

_LINGER_S = 2.0
"""So long the rest of a body that nobody wants is read: closing at once could lose the answer."""
_TICK_S = 0.25
_PIPELINED = 16
"""So many requests of one connection may wait behind one that is answered."""
_BUFFER_BYTES = 256 << 10


class HeadersTooLarge(BadRequest):
    """The request's headers are over the limit."""

    status, code = 431, "headers_too_large"


E = TypeVar("E", bound=Exchange)


class HttpServer(Generic[E]):
    """What the connections of one listener share.

    `exchange` makes an exchange for a connection, `handle` answers it, `keep` are the lower-case
    names of the headers that are read, `explain` writes an error as a body.
    """

    def __init__(
        self,
        *,
        limits: Limits,
        exchange: Callable[["Connection[E]"], E],
        handle: Callable[[E], Awaitable[None]],
        keep: Collection[bytes],
        explain: Callable[[ServeError], bytes],
    ) -> None:
        self.limits = limits
        self.max_head = int(limits.header_kib * 1024)
        self.exchange = exchange
        self.handle = handle
        self.keep = frozenset(keep)
        self.explain = explain
        self.connections: set[Connection[E]] = set()
        self.tasks: set[asyncio.Future[None]] = set()
        self.date = b""
        self.now = 0.0
        self._ticking: asyncio.TimerHandle | None = None

    def connect(self) -> "Connection[E]":
        """A protocol for a new connection."""
        return Connection(self)

    def start(self) -> None:
        """Begin to look at clocks. Needs a running loop."""
        self._tick()

    def stop(self) -> None:
        """Look at clocks no more."""
        if self._ticking is not None:
            self._ticking.cancel()

    def close_idle(self) -> None:
        """Close the connections on which nothing is being answered."""
        for connection in tuple(self.connections):
            connection.close_if_idle()

    def abort(self) -> None:
        """Close all connections."""
        for connection in tuple(self.connections):
            connection.transport.abort()

    def _tick(self) -> None:
        """One timer looks after all connections: a timer each would cost more than a request."""
        loop = asyncio.get_running_loop()
        self.now = loop.time()
        self.date = b"date: %b\r\n" % email.utils.formatdate(time.time(), usegmt=True).encode()
        for connection in tuple(self.connections):
            if connection.deadline < self.now:
                connection.expire()
        self._ticking = loop.call_later(_TICK_S, self._tick)


class Connection(asyncio.Protocol, Generic[E]):
    """One connection: requests in, answers out, in order."""

    transport: asyncio.Transport

    def __init__(self, server: HttpServer[E]) -> None:
        self.address = ""
        self.closing = False
        self.deadline = float("inf")
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._coming: E | None = None
        """The request that is being read."""
        self._current: E | None = None
        """The request that is being answered."""
        self._waiting: deque[E] = deque()
        self._url = b""
        self._head_bytes = 0
        self._raw_bytes = 0
        self._in_head = self._in_body = False
        self._completed = 0
        self._last_keeps = True
        self._refused = False
        self._paused_reading = False
        self._writable: asyncio.Future[None] | None = None
        self._full = False

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        transport.set_write_buffer_limits(_BUFFER_BYTES)
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if isinstance(peer, tuple) else ""
        server = self._server
        server.connections.add(self)
        if len(server.connections) > server.limits.connections:
            self._refuse(Unavailable("too many connections"))
        else:
            self._expect(server.limits.header_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.closing = True
        self._server.connections.discard(self)
        self._full = False
        self._released()
        for exchange in (self._current, self._coming, *self._waiting):
            if exchange is not None:
                exchange.lose()
        self._waiting.clear()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        in_body, completed = self._in_body, self._completed
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._refuse(BadRequest("this server upgrades no connection"))
        except httptools.HttpParserError as error:
            if not self._refused:
                self._refuse(BadRequest(f"the request is not HTTP/1.1: {error}"))
        if self._in_head and not self._refused:
            # The parser keeps an unfinished header to itself, so what it was fed is counted.
            self._raw_bytes += 0 if in_body or completed != self._completed else len(data)
            if self._raw_bytes > self._server.max_head:
                self._refuse(self._too_large())

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._released()

    # httptools

    def on_message_begin(self) -> None:
        self._coming = self._server.exchange(self)
        self._url = b""
        self._head_bytes = self._raw_bytes = 0
        self._in_head = True
        if self._current is None:
            self._expect(self._server.limits.header_timeout_s)

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        exchange = self._coming
        if exchange is None or not self._in_head:  # trailers are not read
            return
        name = name.lower()
        if name in self._server.keep:
            if name in exchange.fields:
                exchange.repeated.add(name)
            else:
                exchange.fields[name] = value

    def on_headers_complete(self) -> None:
        exchange = self._coming
        if exchange is None:
            return
        parser = self._parser
        exchange.method = parser.get_method()
        exchange.minor = 0 if parser.get_http_version() == "1.0" else 1
        exchange.keep_alive = parser.should_keep_alive() and not self.closing
        self._split()
        self._in_head, self._in_body = False, True
        self.deadline = float("inf")
        if self._current is None and not self._waiting:
            self._begin(exchange)
        else:
            self._waiting.append(exchange)
            if len(self._waiting) >= _PIPELINED:
                self.reading(wanted=False)

    def on_body(self, data: bytes) -> None:
        if self._coming is not None:
            self._coming.feed(data)

    def on_message_complete(self) -> None:
        exchange, self._coming = self._coming, None
        self._in_body = False
        self._completed += 1
        if exchange is not None:
            exchange.end()
            if exchange is not self._current and exchange not in self._waiting:
                self._rest()  # it was answered before its body was complete

    # What an exchange needs of its connection (`exchange.Wire`).

    def write(self, data: bytes) -> None:
        if not self.closing:
            self.transport.write(data)

    def date(self) -> bytes:
        return self._server.date

    def slow(self) -> bool:
        return self._full

    async def drained(self) -> None:
        while self._full:
            if self._writable is None:
                self._writable = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._writable)

    def reading(self, *, wanted: bool) -> None:
        if wanted == self._paused_reading and not self.closing:
            self._paused_reading = not wanted
            if wanted:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()

    def answered(self, exchange: Exchange) -> None:
        if exchange is not self._current:
            return
        self._current = None
        self._last_keeps = exchange.keep_alive
        if exchange.complete:
            self._rest()
        else:  # the client still sends a body that nobody wants
            self.reading(wanted=True)
            self._expect(_LINGER_S)

    # What the server does to it.

    def expire(self) -> None:
        """The time for what was expected is over."""
        self.closing = True
        self.transport.close()

    def close_if_idle(self) -> None:
        """Close, unless something is being answered; then close after it."""
        if self._current is None and not self._waiting:
            self._close()
        else:
            for exchange in (self._current, *self._waiting):
                if exchange is not None:
                    exchange.keep_alive = False

    def _begin(self, exchange: E) -> None:
        self._current = exchange
        task = asyncio.ensure_future(self._server.handle(exchange))
        tasks = self._server.tasks
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def _rest(self) -> None:
        """Nothing is being answered: go on with what waits, or wait for more."""
        if not self._last_keeps:
            self._close()
            return
        if self._waiting:
            self.reading(wanted=True)
            self._begin(self._waiting.popleft())
            return
        self.reading(wanted=True)
        self._expect(self._server.limits.keep_alive_s)

    def _expect(self, within_s: float) -> None:
        self.deadline = asyncio.get_running_loop().time() + within_s

    def _split(self) -> None:
        """The path and the query of what was asked for."""
        exchange = self._coming
        assert exchange is not None  # noqa: S101  set where the message begins
        path, _, exchange.query = self._url.partition(b"?")
        if not path.startswith(b"/"):  # absolute form, as for a proxy
            path = httptools.parse_url(self._url).path or b"/"
        exchange.path = urllib.parse.unquote(path) if b"%" in path else path.decode("latin-1")

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._server.max_head:
            self._refuse(self._too_large())
            raise httptools.HttpParserError("headers too large")

    def _too_large(self) -> HeadersTooLarge:
        return HeadersTooLarge(f"headers may have {self._server.max_head} bytes")

    def _refuse(self, error: ServeError) -> None:
        """Answer without the handler, and close."""
        self._refused = True
        if self._current is None:
            body = self._server.explain(error)
            head = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
            self.write(STATUS_LINES[error.status] + head + b"connection: close\r\n\r\n" + body)
        self._close()

    def _close(self) -> None:
        self.closing = True
        self.transport.close()

    def _released(self) -> None:
        if self._writable is not None:
            self._writable.set_result(None)
            self._writable = None
