"""The gateway's ASGI application: the door, the routes, and what every answer carries."""

import asyncio
import logging
from collections.abc import Callable

from starlette.routing import Router

from starloom.serve.errors import ServeError, Throttled, Unavailable
from starloom.serve.gateway.auth import Keys
from starloom.serve.gateway.client import Client, Gone, Receive, Scope, Send
from starloom.serve.gateway.clock import Clock
from starloom.serve.gateway.door import (
    Door,
    Headers,
    NoSuchPage,
    WrongMethod,
    address,
    check_json,
    sane_id,
    wanted,
)
from starloom.serve.gateway.line import CHAT, TEXT, Line
from starloom.serve.gateway.metrics import Metrics
from starloom.serve.gateway.pages import Pages
from starloom.serve.gateway.record import RequestLog, Tracker
from starloom.site import Gateway

_log = logging.getLogger(__name__)
_POSTS = (CHAT, TEXT)
_MIB = 1 << 20
_CANCELLED = 499
"""What logs say of a request whose client left; nobody is sent it."""


class BrokenInside(ServeError):
    """A fault of ours; the log has the rest."""


class App:
    """Everything between a connection and the line. `create_app` puts it together."""

    def __init__(
        self,
        gateway: Gateway,
        *,
        line: Line,
        pages: Pages,
        keys: Keys,
        metrics: Metrics,
        log: RequestLog | None,
        clock: Clock,
        new_id: Callable[[], str],
        lifespan: Router,
    ) -> None:
        self._limits = gateway.limits
        self._open = {"/health", "/ready", *(("/metrics",) if gateway.open_metrics else ())}
        self._door = Door(gateway)
        self._line = line
        self._pages = pages
        self._keys = keys
        self._metrics = metrics
        self._log = log
        self._clock = clock
        self._new_id = new_id
        self._lifespan = lifespan
        self._body_bytes = int(gateway.limits.body_mib * _MIB)
        self._spare_bytes = int(gateway.limits.bodies_mib * _MIB)
        self.running = 0
        """Requests in the line."""

    def drain(self) -> None:
        """Take no new requests; those in the line go on."""
        self._pages.draining = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._lifespan(scope, receive, send)
            return
        client = Client(scope, receive, send)
        try:
            await self._enter(scope, client)
        except ServeError as error:
            await client.error(error)
        except Gone:
            pass
        except Exception:  # noqa: BLE001  the process's edge: a client is told without details
            _log.exception("a request broke the gateway")
            await client.error(BrokenInside("the gateway failed; its log says why"))

    async def _enter(self, scope: Scope, client: Client) -> None:
        """The checks that need headers alone, then to the page or into the line."""
        unique = self._new_id()
        client.headers.append((b"x-request-id", unique.encode()))
        headers = wanted(scope["headers"])
        request_id = sane_id(headers) or unique
        client.headers[0] = (b"x-request-id", request_id.encode())
        self._door.check_host(headers.get(b"host"))
        client.headers += self._door.check_origin(headers)
        method, path = scope["method"], scope["path"]
        if method == "OPTIONS" and b"origin" in headers:
            client.headers += self._door.preflight(headers)
            await client.empty()
            return
        tracker = Tracker(request_id, unique, path, self._clock)
        if path not in self._open:
            came_from = address(scope["client"])
            tracker.record.tenant = self._keys.tenant(headers.get(b"authorization"), came_from)
        if path in _POSTS:
            if method != "POST":
                raise WrongMethod("POST a JSON body here")
            await self._into_line(path, headers, client, tracker)
        elif method not in ("GET", "HEAD"):
            raise WrongMethod("only GET is answered here")
        elif not await self._pages.answer(path, client):
            raise NoSuchPage(f"there is nothing at {path}")

    async def _into_line(
        self, path: str, headers: Headers, client: Client, tracker: Tracker
    ) -> None:
        """Count the request, read its body, and see it through, however it ends."""
        if self._pages.draining:
            raise Unavailable("the gateway is shutting down", retry_after_s=5)
        if self.running >= self._limits.requests:
            raise Throttled("too many requests at once", retry_after_s=1)
        check_json(headers)
        stated = headers.get(b"content-length")
        held_bytes = self._expected_bytes(stated)
        if held_bytes > self._spare_bytes:
            raise Throttled("too many large bodies at once", retry_after_s=1)
        outcome = "ok"
        self._spare_bytes -= held_bytes
        self.running += 1
        try:
            raw = await client.body(stated, self._body_bytes, self._limits.body_timeout_s)
            await self._watched(path, raw, tracker, client)
        except ServeError as error:
            outcome = error.code
            await client.error(error)
        except Gone:
            outcome = "cancelled"
            client.status = _CANCELLED
        except Exception:
            outcome = BrokenInside.code
            client.status = BrokenInside.status
            raise
        finally:
            self.running -= 1
            self._spare_bytes += held_bytes
            record = tracker.done(outcome, client.status)
            self._metrics.seen(record)
            if self._log is not None:
                self._log.write(record)

    def _expected_bytes(self, stated: bytes | None) -> int:
        """What a body may come to hold: what it says of itself, else the most that is let in."""
        if stated is None or not stated.isdigit():
            return self._body_bytes
        return min(int(stated), self._body_bytes)

    async def _watched(self, path: str, raw: bytes, tracker: Tracker, client: Client) -> None:
        """The line's answer, broken off when the client leaves. Raises `Gone` then."""
        task = asyncio.current_task()
        gone = False

        def leave() -> None:
            nonlocal gone
            gone = True
            if task is not None:
                task.cancel()

        forget = client.watch(leave)
        try:
            await self._line.answer(path, raw, tracker, client)
        except asyncio.CancelledError:
            if task is not None:
                task.uncancel()
            if gone:
                raise Gone from None
            raise Unavailable("the gateway is shutting down", retry_after_s=5) from None
        finally:
            forget()
