"""One request and its answer, on one connection."""

import asyncio
import http
from collections.abc import Callable
from typing import Protocol

from starloom.serve.errors import BadRequest, TooLarge

RawHeaders = list[tuple[bytes, bytes]]

STATUS_LINES = {
    int(status): f"HTTP/1.1 {int(status)} {status.phrase}\r\n".encode()
    for status in http.HTTPStatus
}
_LAST_CHUNK = b"0\r\n\r\n"
_UNASKED_BYTES = 64 << 10


class Gone(Exception):
    """The client left before it was answered."""


class BodyTimedOut(BadRequest):
    """The body did not arrive in time."""

    status, code = 408, "body_timeout"


class Wire(Protocol):
    """What an exchange needs of its connection."""

    address: str
    closing: bool

    def write(self, data: bytes) -> None: ...

    def date(self) -> bytes:
        """The `date` header, as a line."""

    async def drained(self) -> None:
        """Until the client has read enough of what was written."""

    def slow(self) -> bool:
        """Whether writing should wait."""

    def reading(self, *, wanted: bool) -> None:
        """Read on, or leave what comes to the kernel."""

    def answered(self, exchange: "Exchange") -> None:
        """The whole answer has been written."""


class Exchange:
    """A request as it arrives, and the way to answer it, once.

    `fields` holds the headers that the server was told to keep, by lower-case name, each as it
    first came. `headers` are added to the answer.
    """

    __slots__ = (
        "_answered",
        "_body_bytes",
        "_chunked",
        "_limit_bytes",
        "_on_gone",
        "_parts",
        "_waiter",
        "_wire",
        "complete",
        "fields",
        "gone",
        "headers",
        "keep_alive",
        "method",
        "minor",
        "path",
        "query",
        "repeated",
        "started",
        "status",
    )

    def __init__(self, wire: Wire) -> None:
        self.method = b""
        self.path = ""
        self.query = b""
        self.minor = 1
        """0 for HTTP/1.0."""
        self.fields: dict[bytes, bytes] = {}
        self.repeated: set[bytes] = set()
        """Names of `fields` that came more than once."""
        self.headers: RawHeaders = []
        self.keep_alive = True
        self.complete = False
        """Whether the whole body has arrived."""
        self.gone = False
        self.started = False
        """Whether the answer has begun."""
        self.status = 0
        self._wire = wire
        self._parts: list[bytes] = []
        self._body_bytes = 0
        self._limit_bytes: int | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._on_gone: list[Callable[[], object]] = []
        self._chunked = False
        self._answered = False

    @property
    def address(self) -> str:
        """The client's address."""
        return self._wire.address

    async def body(self, stated: bytes | None, limit_bytes: int, timeout_s: float) -> bytes:
        """The whole body. Raises `TooLarge`, `BodyTimedOut`, `Gone`."""
        if stated is not None and (not stated.isdigit() or int(stated) > limit_bytes):
            raise TooLarge(f"the body may have {limit_bytes} bytes")
        self._limit_bytes = limit_bytes
        self._wire.reading(wanted=True)
        if not self.complete and not self.gone and self._body_bytes <= limit_bytes:
            if b"expect" in self.fields:
                self._wire.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            try:
                async with asyncio.timeout(timeout_s):
                    await self._wait()
            except TimeoutError as error:
                raise BodyTimedOut(f"the body did not arrive within {timeout_s:g} s") from error
        if self._body_bytes > limit_bytes:
            self._parts.clear()
            raise TooLarge(f"the body may have {limit_bytes} bytes")
        if self.gone:
            raise Gone
        parts, self._parts = self._parts, []
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def send(self, status: int, kind: bytes, body: bytes) -> None:
        """The whole answer, with its content type."""
        self.status = status
        head = self._head(status, b"content-type: %b\r\ncontent-length: %d\r\n" % (kind, len(body)))
        self._wire.write(head if self.method == b"HEAD" else head + body)
        self._finish()

    def empty(self) -> None:
        """204: all is said in the headers."""
        self.status = 204
        self._wire.write(self._head(204, b""))
        self._finish()

    def start(self, status: int, kind: bytes, data: bytes = b"") -> None:
        """The head of an answer whose length is not known, and its first data."""
        self.status = status
        self._chunked = self.minor > 0
        coding = b"transfer-encoding: chunked\r\n" if self._chunked else b""
        self.keep_alive = self.keep_alive and self._chunked
        head = self._head(status, b"content-type: %b\r\n%b" % (kind, coding))
        self._wire.write(head + self._framed(data) if data else head)

    def write(self, data: bytes) -> None:
        """More of a started answer. `await drained()` now and then."""
        if data:
            self._wire.write(self._framed(data))

    def finish(self, data: bytes = b"") -> None:
        """The last data of a started answer."""
        last = _LAST_CHUNK if self._chunked else b""
        if data or last:
            self._wire.write((self._framed(data) if data else b"") + last)
        self._finish()

    def abort(self) -> None:
        """Break off: what was started can only end in a closed connection."""
        self.keep_alive = False
        self._finish()

    async def drained(self) -> None:
        """Until the client has read enough to be sent more. Raises `Gone` when it left."""
        if self._wire.slow():
            await self._wire.drained()
        if self.gone:
            raise Gone

    def slow(self) -> bool:
        """Whether the client has much left to read."""
        return self._wire.slow()

    def watch(self, on_gone: Callable[[], object]) -> Callable[[], None]:
        """Call `on_gone` when the client leaves; the result ends the watch."""
        self._on_gone.append(on_gone)
        if self.gone:
            on_gone()
        return self._on_gone.clear

    # What the connection tells.

    def feed(self, data: bytes) -> None:
        """A part of the body came."""
        self._body_bytes += len(data)
        if self._answered:
            return
        if self._limit_bytes is None:
            self._parts.append(data)
            if self._body_bytes > _UNASKED_BYTES:
                self._wire.reading(wanted=False)  # until somebody asks for the body
        elif self._body_bytes <= self._limit_bytes:
            self._parts.append(data)
        else:
            self._wake()

    def end(self) -> None:
        """The body is complete."""
        self.complete = True
        self._wake()

    def lose(self) -> None:
        """The connection is lost."""
        if not self.gone:
            self.gone = True
            self._wake()
            for leave in tuple(self._on_gone):
                leave()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _head(self, status: int, fields: bytes) -> bytes:
        self.started = True
        parts = [STATUS_LINES[status], self._wire.date(), fields]
        parts += [b"%b: %b\r\n" % field for field in self.headers]
        if not self.keep_alive:
            parts.append(b"connection: close\r\n")
        elif self.minor == 0:
            parts.append(b"connection: keep-alive\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)

    def _framed(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data

    def _finish(self) -> None:
        if not self._answered:
            self._answered = True
            self._parts.clear()
            self._wire.answered(self)
