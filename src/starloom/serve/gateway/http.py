"""uvicorn's HTTP protocol with bounds on what a client can hold open before it is known.

Header bytes, the time until headers are complete, and connections are limited here; the body's
size and time where it is read (`client`).
"""

import asyncio
from collections.abc import Callable
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from starloom.serve.errors import BadRequest, ServeError, Unavailable
from starloom.serve.gateway.client import ON_GONE, error_body
from starloom.site import Limits

_LINGER_S = 2.0
"""So long the rest of a body that nobody wants is read: closing at once could lose the answer."""


class HeadersTooLarge(BadRequest):
    """The request's headers are over the limit."""

    status, code = 431, "headers_too_large"


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: Limits,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self._max_head = int(limits.header_kib * 1024)
        self._head_bytes = 0
        self._raw_bytes = 0
        self._in_head = False
        self._in_body = False
        self._refused = False
        self._timer: asyncio.TimerHandle | None = None
        self._on_gone: set[Callable[[], object]] = set()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._limits.connections:
            self._refuse(Unavailable("too many connections"))
        else:
            self._arm(self._limits.header_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)
        for leave in tuple(self._on_gone):
            leave()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        counts = not self._in_body
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            # The parser keeps an unfinished header to itself, so what it was fed is counted.
            self._raw_bytes += len(data) if counts else 0
            if self._raw_bytes > self._max_head:
                self._refuse(HeadersTooLarge(f"headers may have {self._max_head} bytes"))
            elif self._timer is None:
                self._arm(self._limits.header_timeout_s)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = self._raw_bytes = 0
        self.scope[ON_GONE] = self._on_gone  # type: ignore[literal-required]

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        if not self._in_body:  # trailers are not read
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._disarm()
        self._in_head = False
        self._in_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_body = False
        if self.cycle is not None and self.cycle.response_complete:
            self._disarm()
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_body and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._arm(_LINGER_S)

    def send_400_response(self, msg: str) -> None:
        """What the parser does not understand is answered in our form too."""
        if not self._refused:
            self._refuse(BadRequest(msg))

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._max_head:
            self._refuse(HeadersTooLarge(f"headers may have {self._max_head} bytes"))
            raise httptools.HttpParserError("headers too large")

    def _refuse(self, error: ServeError) -> None:
        """Answer without the app, and close."""
        self._refused = True
        self._disarm()
        if self.cycle is None or self.cycle.response_complete:
            body = error_body(error)
            head = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body)
            self.transport.write(
                STATUS_LINE[error.status] + head + b"connection: close\r\n\r\n" + body
            )
        self.transport.close()

    def _arm(self, delay_s: float) -> None:
        self._disarm()
        self._timer = self.loop.call_later(delay_s, self._too_slow)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        self.transport.close()
