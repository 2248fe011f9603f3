"""The gateway's application: the door, the routes, and what every answer carries."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager

from starloom.serve.errors import ServeError, Throttled, Unavailable
from starloom.serve.gateway.admin import ADMIN_PATHS, Admin
from starloom.serve.gateway.auth import Keys
from starloom.serve.gateway.client import Client, Gone, error_body
from starloom.serve.gateway.clock import Clock
from starloom.serve.gateway.door import (
    Door,
    NoSuchPage,
    WrongMethod,
    check_json,
    sane_id,
    target_s,
)
from starloom.serve.gateway.line import Line
from starloom.serve.gateway.metrics import Metrics
from starloom.serve.gateway.pages import Pages
from starloom.serve.gateway.quota import Quotas
from starloom.serve.gateway.record import RequestLog, Tracker
from starloom.serve.gateway.spans import Spans, passed_on
from starloom.serve.gateway.surface import EXPLAINS, Post
from starloom.serve.peers import Board
from starloom.site import Gateway

_log = logging.getLogger(__name__)
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
        posts: Mapping[str, Post],
        pages: Pages,
        keys: Keys,
        metrics: Metrics,
        log: RequestLog | None,
        clock: Clock,
        new_id: Callable[[], str],
        quotas: Quotas,
        board: Board | None,
        spans: Spans | None,
        admin: Admin | None,
        lifespan: Callable[[], AbstractAsyncContextManager[None]],
    ) -> None:
        self._limits = gateway.limits
        self._open = {"/health", "/ready", *(("/metrics",) if gateway.open_metrics else ())}
        self._door = Door(gateway)
        self._line = line
        self._posts = posts
        self._pages = pages
        self._keys = keys
        self._metrics = metrics
        self._log = log
        self._clock = clock
        self._new_id = new_id
        self._quotas = quotas
        self._spans = spans
        self._admin = admin
        self.board = board
        """What other gateways of the site tell; None where there are none."""
        self.lifespan = lifespan
        """What has to live while requests are answered."""
        self._body_bytes = int(gateway.limits.body_mib * _MIB)
        self._spare_bytes = int(gateway.limits.bodies_mib * _MIB)
        self.running = 0
        """Requests in the line."""

    def drain(self) -> None:
        """Take no new requests; those in the line go on."""
        self._pages.draining = True

    async def __call__(self, client: Client) -> None:
        """Answer one request, whatever happens."""
        try:
            await self._enter(client)
        except ServeError as error:
            self._tell(client, error)
        except Gone:
            pass
        except Exception:  # noqa: BLE001  the process's edge: a client is told without details
            _log.exception("a request broke the gateway")
            self._tell(client, BrokenInside("the gateway failed; its log says why"))

    def _tell(self, client: Client, error: ServeError) -> None:
        """An error, in the shape of the API that was called."""
        client.explain = EXPLAINS.get(client.path, error_body)
        client.error(error)

    async def _enter(self, client: Client) -> None:
        """The checks that need headers alone, then to the page or into the line."""
        unique = self._new_id()
        headers = client.fields
        request_id = sane_id(headers) or unique
        client.headers.append((b"x-request-id", request_id.encode()))
        self._door.check_host(headers.get(b"host"), repeated=b"host" in client.repeated)
        client.headers += self._door.check_origin(headers)
        method, path = client.method, client.path
        if method == b"OPTIONS" and b"origin" in headers:
            client.headers += self._door.preflight(headers)
            client.empty()
            return
        if self._admin is not None and path.startswith(ADMIN_PATHS):
            await self._admin.answer(client)
            return
        tracker = Tracker(request_id, unique, path, self._clock)
        if path not in self._open:
            bearer = headers.get(b"authorization")
            if bearer is None and (key := headers.get(b"x-api-key")) is not None:
                bearer = b"Bearer " + key  # as clients of Anthropic's API send it
            tracker.record.tenant = self._keys.tenant(bearer, client.address)
        post = self._posts.get(path)
        if post is not None:
            if method != b"POST":
                raise WrongMethod("POST a JSON body here", "POST, OPTIONS")
            await self._into_line(post, client, tracker)
        elif method not in (b"GET", b"HEAD"):
            raise WrongMethod("only GET is answered here", "GET, HEAD, OPTIONS")
        elif not self._pages.answer(path, client):
            raise NoSuchPage(f"there is nothing at {path}")

    async def _into_line(self, post: Post, client: Client, tracker: Tracker) -> None:
        """Count the request, read its body, and see it through, however it ends."""
        if self._pages.draining:
            raise Unavailable("the gateway is shutting down", retry_after_s=5)
        if self.running >= self._limits.requests:
            raise Throttled("too many requests at once", retry_after_s=1)
        check_json(client.fields)
        stated = client.fields.get(b"content-length")
        held_bytes = self._expected_bytes(stated)
        if held_bytes > self._spare_bytes:
            raise Throttled("too many large bodies at once", retry_after_s=1)
        client.headers += self._quotas.admit(tracker.record.tenant)
        tracker.headers = client.fields
        tracker.ttft_target_s = target_s(client.fields, b"ttft")
        tracker.tpot_target_s = target_s(client.fields, b"tpot")
        span = None
        if self._spans is not None:
            span = self._spans.begin(client.fields, tracker)
        elif b"traceparent" in client.fields:
            tracker.passed = passed_on(client.fields)
        outcome = "ok"
        self._spare_bytes -= held_bytes
        self.running += 1
        try:
            raw = await client.body(stated, self._body_bytes, self._limits.body_timeout_s)
            await self._watched(post, raw, tracker, client)
        except ServeError as error:
            outcome = error.code
            self._tell(client, error)
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
            if span is not None and self._spans is not None:
                self._spans.end(span, record)

    def _expected_bytes(self, stated: bytes | None) -> int:
        """What a body may come to hold: what it says of itself, else the most that is let in."""
        if stated is None or not stated.isdigit():
            return self._body_bytes
        return min(int(stated), self._body_bytes)

    async def _watched(self, post: Post, raw: bytes, tracker: Tracker, client: Client) -> None:
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
            await post(client.path, raw, tracker, client)
        except asyncio.CancelledError:
            if task is not None:
                task.uncancel()
            if gone:
                raise Gone from None
            raise Unavailable("the gateway is shutting down", retry_after_s=5) from None
        finally:
            forget()
