"""The gateway's ASGI application: the door, the routes, and what every answer carries."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial

import msgspec
from starlette.routing import Router

from starloom.serve.base import Engine
from starloom.serve.errors import BadRequest, EngineFailed, ServeError, Throttled, Unavailable
from starloom.serve.gateway.auth import Keys, Throttle
from starloom.serve.gateway.client import Client, Gone, Receive, Scope, Send
from starloom.serve.gateway.clock import Clock
from starloom.serve.gateway.door import (
    Door,
    NoSuchPage,
    RawHeaders,
    WrongMethod,
    address,
    check_json,
    sane_id,
    wanted,
)
from starloom.serve.gateway.guarding import Checker, Guarding
from starloom.serve.gateway.line import CHAT, TEXT, Line
from starloom.serve.gateway.metrics import Metrics, WorkerMetrics
from starloom.serve.gateway.pages import Pages
from starloom.serve.gateway.prompts import Prompts
from starloom.serve.gateway.record import RequestLog, Tracker
from starloom.serve.gateway.relay import WAIT_S, Relay
from starloom.serve.gateway.workers import Workers
from starloom.site import Site

_MIB = 1 << 20
_OPEN = ("/health", "/ready")


class App:
    """Everything between a connection and the line. `create_app` puts it together."""

    def __init__(
        self,
        site: Site,
        *,
        line: Line,
        pages: Pages,
        keys: Keys,
        metrics: Metrics,
        log: RequestLog | None,
        clock: Clock,
        new_id: Callable[[], str],
        router: Router,
    ) -> None:
        self._limits = site.gateway.limits
        self._open = {*_OPEN, *(("/metrics",) if site.gateway.open_metrics else ())}
        self._door = Door(site.gateway)
        self._line = line
        self._pages = pages
        self._keys = keys
        self._metrics = metrics
        self._log = log
        self._clock = clock
        self._new_id = new_id
        self._router = router
        self._body_bytes = int(self._limits.body_mib * _MIB)
        self.running = 0
        """Requests in the line."""

    def drain(self) -> None:
        """Take no new requests; those in the line go on."""
        self._pages.draining = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._router(scope, receive, send)
            return
        raw: RawHeaders = scope["headers"]
        unique = self._new_id()
        client = Client(scope, receive, send, [])
        try:
            headers = wanted(raw)
            request_id = sane_id(headers) or unique
            client.headers.append((b"x-request-id", request_id.encode()))
            self._door.check_host(headers.get(b"host"))
            client.headers += self._door.check_origin(headers)
            await self._route(scope, headers, client, Tracker(request_id, unique, scope["path"], self._clock))
        except ServeError as error:
            await client.error(error)
        except Gone:
            pass
