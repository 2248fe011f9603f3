"""Any server that speaks OpenAI's API, as an `Engine`."""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from starloom.serve.base import Delta, EngineRequest, LoadReport, Usage
from starloom.serve.disagg import Side
from starloom.serve.engines.sse import Answer, BadStream, events, payload, split
from starloom.serve.errors import (
    BadRequest,
    BusyElsewhere,
    EngineFailed,
    ServeError,
    Unavailable,
)
from starloom.serve.http import Reply, Upstream, UpstreamError
from starloom.serve.signals.roots import cache_salt
from starloom.site import OpenAIWorker

_log = logging.getLogger(__name__)

_LOOK_EVERY_S = 5.0
_LOOK_AGAIN_S = 1.0
_LOOK_TIMEOUT_S = 5.0
_MAX_ERROR_BYTES = 64 << 10
_MAX_LIST_BYTES = 4 << 20
_MAX_ANSWER_BYTES = 64 << 20
_EVERYWHERE = ("/v1/chat/completions", "/v1/completions")


class NotThere(BadRequest):
    """The server does not do that, or not with this model."""

    status, code = 404, "not_found"


class OpenAIEngine:
    """Forwards a client's own body; `on_up` and `on_down` are told its name."""

    def __init__(self, worker: OpenAIWorker) -> None:
        self.name = worker.name
        self.model = worker.model
        self.on_up: Callable[[str], None] | None = None
        self.on_down: Callable[[str], None] | None = None
        self.upstream_model = worker.upstream_model or worker.model
        host = urlsplit(worker.url).hostname or ""
        self.side = Side(worker.name, host, worker.bootstrap_port)
        self.salted = worker.salted
        self._ready = False
        self._finished_tokens = [0, 0, 0]
        self._task: asyncio.Task[None] | None = None
        self._upstream = Upstream(worker.url, headers=_headers(worker), timeout_s=worker.timeout_s)
        beside = worker.url.rstrip("/").removesuffix("/v1")
        self._beside = Upstream(beside, headers=_headers(worker), timeout_s=worker.timeout_s)
        """For what is not under `/v1`."""

    @property
    def ready(self) -> bool:
        return self._ready

    def report(self) -> LoadReport:
        """What can be counted from here: requests under way, and tokens that upstream counted."""
        prompt, cached, generated = self._finished_tokens
        return LoadReport(
            running=self._upstream.busy,
            prompt_tokens_total=prompt,
            cached_tokens_total=cached,
            generated_tokens_total=generated,
        )

    async def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._watch(), name=f"worker {self.name}")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        self._set_ready(False)
        self._upstream.close()
        self._beside.close()

    async def stream(self, request: EngineRequest) -> AsyncIterator[Delta]:
        """As `Engine.stream`; also raises `BadRequest` and `BusyElsewhere` as upstream says."""
        if request.body is None or not request.path.startswith("/v1/"):
            raise BadRequest(f"worker {self.name!r} takes requests of OpenAI's API only")
        body = {
            **request.body,
            "model": self.upstream_model,
            "n": 1,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.salted and request.root:
            body["cache_salt"] = cache_salt(request.root)
        reply = await self.forward(request.path, msgspec.json.encode(body), request.passed)
        begun = False
        try:
            async for delta in self._deltas(request.id, reply):
                begun = True
                yield delta
        except (UpstreamError, BadStream) as error:
            raise self.lost(error, begun=begun) from error
        finally:
            reply.close()

    async def forward(self, path: str, body: bytes, more: bytes = b"") -> Reply:
        """Send a body as it is; the answer begins with 200. `more` are header lines.

        Raises `Unavailable` where another worker may do better, and what the client must be told.
        """
        try:
            reply = await self._send(path, body, more)
        except UpstreamError as error:
            raise self.lost(error, begun=False) from error
        if reply.status != 200:
            try:
                raise await self._error(reply, path)
            finally:
                reply.close()
        return reply

    async def ask(
        self, path: str, body: bytes, more: bytes = b""
    ) -> tuple[int, dict[str, Any] | None]:
        """Send a body and read the answer: its status, 0 for a lost one, and its JSON object.

        A stream that tells of an error is that error.
        """
        try:
            reply = await self._send(path, body, more)
            try:
                data = await reply.read(_MAX_ANSWER_BYTES)
            finally:
                reply.close()
        except UpstreamError as error:
            _log.warning("worker %s: %s", self.name, error)
            return 0, None
        status, answer = reply.status, _object(data)
        if status == 200 and answer is None and (answer := _broken(data)) is not None:
            status = 500
        if status != 200:
            told = _message((answer or {}).get("error", answer))
            _log.warning("worker %s answered %d: %s", self.name, status, told)
        return status, answer

    def counted(self, usage: Usage) -> None:
        """Upstream counted the tokens of an answer."""
        counts = (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)
        self._finished_tokens = [
            total + more for total, more in zip(self._finished_tokens, counts, strict=True)
        ]

    def lost(self, error: Exception, *, begun: bool) -> ServeError:
        """Before the first delta another worker may take it; afterwards the answer is broken."""
        _log.warning("worker %s: %s", self.name, error)
        if begun:
            return EngineFailed(f"worker {self.name!r} broke off its answer")
        return Unavailable(f"worker {self.name!r} does not answer")

    async def export_blocks(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:  # noqa: ARG002
        """Nothing: the API hands no KV over."""
        return {}

    async def import_blocks(self, blocks: Mapping[bytes, bytes]) -> int:  # noqa: ARG002
        """Nothing: the API takes no KV."""
        return 0

    async def _send(self, path: str, body: bytes, more: bytes) -> Reply:
        upstream = self._upstream if path.startswith("/v1/") else self._beside
        try:
            return await upstream.request(b"POST", path.removeprefix("/v1").encode(), body, more)
        except UpstreamError as error:
            if not error.sent:
                self._set_ready(False)
            raise

    async def _deltas(self, request_id: str, reply: Reply) -> AsyncIterator[Delta]:
        answer = Answer(request_id)
        async for event in events(_parts(reply)):
            if (failure := event.get("error")) is not None:
                raise BadStream(_message(failure) or "upstream reports an error")
            if (delta := answer.take(event)) is not None:
                yield delta
        last = answer.end()
        if last is None:
            raise BadStream("the stream ended before the answer did")
        if last.usage is not None:
            self.counted(last.usage)
        yield last

    async def _error(self, reply: Reply, path: str) -> ServeError:
        status = reply.status
        message = _message(await _bounded(reply)) or f"worker {self.name!r} answered {status}"
        if status == 429:
            return BusyElsewhere(message, retry_after_s=_seconds(reply.fields.get(b"retry-after")))
        if status in (404, 405) and path not in _EVERYWHERE:
            return NotThere(f"worker {self.name!r} has no {path}: {message}")
        if status in (401, 403, 404):
            # Our key, address or model name is wrong there: nothing that the client can change.
            _log.error("worker %s answered %d: %s", self.name, status, message)
            return Unavailable(f"worker {self.name!r} does not let us in")
        if 400 <= status < 500:
            return BadRequest(message)
        return Unavailable(f"worker {self.name!r} answered {status}")

    async def _watch(self) -> None:
        """Ask for the list of models now and then: a light question that every server knows."""
        while True:
            self._set_ready(await self._answers())
            await asyncio.sleep(_LOOK_EVERY_S if self._ready else _LOOK_AGAIN_S)

    async def _answers(self) -> bool:
        try:
            status, _ = await self._upstream.get(
                b"/models", timeout_s=_LOOK_TIMEOUT_S, limit_bytes=_MAX_LIST_BYTES
            )
        except UpstreamError:
            return False
        # Some servers have no such list; that one says so is an answer too.
        return status in (200, 404, 405)

    def _set_ready(self, ready: bool) -> None:
        if ready == self._ready:
            return
        self._ready = ready
        _log.info("worker %s is %s", self.name, "up" if ready else "away")
        tell = self.on_up if ready else self.on_down
        if tell is not None:
            tell(self.name)


def _headers(worker: OpenAIWorker) -> dict[str, str]:
    if worker.key_env is None:
        return {}
    key = os.environ.get(worker.key_env)
    if not key:
        _log.warning("worker %s: the variable %s holds no key", worker.name, worker.key_env)
        return {}
    return {"Authorization": f"Bearer {key}"}


async def _parts(reply: Reply) -> AsyncIterator[bytes]:
    while part := await reply.part():
        yield part


async def _bounded(reply: Reply) -> Any:
    """The JSON of an error answer; None when it is none or too long."""
    try:
        body = msgspec.json.decode(await reply.read(_MAX_ERROR_BYTES))
    except (UpstreamError, msgspec.MsgspecError):
        return None
    return body.get("error", body) if isinstance(body, dict) else None


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        found = msgspec.json.decode(data)
    except msgspec.MsgspecError:
        return None
    return found if isinstance(found, dict) else None


def _broken(data: bytes) -> dict[str, Any] | None:
    """The event of a stream that tells of an error."""
    told = (_object(payload(event)) for event in split(data) if b'"error"' in event)
    return next((found for found in told if found is not None and found.get("error")), None)


def _message(error: Any) -> str | None:
    """The message in OpenAI's error object, or in those of servers that write it otherwise."""
    if isinstance(error, str):
        return error
    if isinstance(error, dict):
        message = error.get("message", error.get("detail"))
        return message if isinstance(message, str) else None
    return None


def _seconds(text: bytes | None) -> float | None:
    """`Retry-After` in seconds; its date form is left out."""
    try:
        return max(0.0, float(text)) if text is not None else None
    except ValueError:
        return None
