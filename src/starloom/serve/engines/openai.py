"""Any server that speaks OpenAI's API, as an `Engine`."""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import httpx
import msgspec

from starloom.serve.base import Delta, EngineRequest, LoadReport
from starloom.serve.engines.sse import Answer, BadStream, events
from starloom.serve.errors import BadRequest, EngineFailed, ServeError, Throttled, Unavailable
from starloom.site import OpenAIWorker

_log = logging.getLogger(__name__)

_LOOK_EVERY_S = 5.0
_LOOK_AGAIN_S = 1.0
_LOOK_TIMEOUT_S = 5.0
_CONNECT_S = 5.0
_MAX_ERROR_BYTES = 64 << 10


class OpenAIEngine:
    """Forwards a client's own body; `on_up` and `on_down` are told its name."""

    def __init__(
        self, worker: OpenAIWorker, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.name = worker.name
        self.model = worker.model
        self.on_up: Callable[[str], None] | None = None
        self.on_down: Callable[[str], None] | None = None
        self._upstream_model = worker.upstream_model or worker.model
        self._url = worker.url.rstrip("/")
        self._ready = False
        self._running = 0
        self._finished_tokens = [0, 0, 0]
        self._task: asyncio.Task[None] | None = None
        self._client = httpx.AsyncClient(
            headers=_headers(worker),
            timeout=httpx.Timeout(worker.timeout_s, connect=min(_CONNECT_S, worker.timeout_s)),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            transport=transport,
            http1=True,
            http2=False,
        )

    @property
    def ready(self) -> bool:
        return self._ready

    def report(self) -> LoadReport:
        """What can be counted from here: requests under way, and tokens that upstream counted."""
        prompt, cached, generated = self._finished_tokens
        return LoadReport(
            running=self._running,
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
        await self._client.aclose()

    async def stream(self, request: EngineRequest) -> AsyncIterator[Delta]:
        """As `Engine.stream`; also raises `BadRequest` and `Throttled` as upstream says."""
        if request.body is None or not request.path.startswith("/v1/"):
            raise BadRequest(f"worker {self.name!r} takes requests of OpenAI's API only")
        url = self._url + request.path.removeprefix("/v1")
        body = {
            **request.body,
            "model": self._upstream_model,
            "n": 1,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        self._running += 1
        begun = False
        try:
            async with self._client.stream("POST", url, json=body) as response:
                if response.status_code != 200:
                    raise await self._error(response)
                async for delta in self._deltas(request.id, response):
                    begun = True
                    yield delta
        except (httpx.HTTPError, BadStream) as error:
            _log.warning("worker %s: %s", self.name, error or type(error).__name__)
            raise self._lost(begun, error) from error
        finally:
            self._running -= 1

    async def export_blocks(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:  # noqa: ARG002
        """Nothing: the API hands no KV over."""
        return {}

    async def import_blocks(self, blocks: Mapping[bytes, bytes]) -> int:  # noqa: ARG002
        """Nothing: the API takes no KV."""
        return 0

    async def _deltas(self, request_id: str, response: httpx.Response) -> AsyncIterator[Delta]:
        answer = Answer(request_id)
        async for event in events(response.aiter_lines()):
            if (failure := event.get("error")) is not None:
                raise BadStream(_message(failure) or "upstream reports an error")
            if (delta := answer.take(event)) is not None:
                yield delta
        last = answer.end()
        if last is None:
            raise BadStream("the stream ended before the answer did")
        if last.usage is not None:
            usage = last.usage
            counts = (usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)
            self._finished_tokens = [
                total + more for total, more in zip(self._finished_tokens, counts, strict=True)
            ]
        yield last

    def _lost(self, begun: bool, error: Exception) -> ServeError:
        """Before the first delta another worker may take it; afterwards the answer is broken."""
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            self._set_ready(False)
        if begun:
            return EngineFailed(f"worker {self.name!r} broke off its answer")
        return Unavailable(f"worker {self.name!r} does not answer")

    async def _error(self, response: httpx.Response) -> ServeError:
        status = response.status_code
        message = _message(await _bounded(response)) or f"worker {self.name!r} answered {status}"
        if status == 429:
            return Throttled(message, retry_after_s=_seconds(response.headers.get("retry-after")))
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
            response = await self._client.get(f"{self._url}/models", timeout=_LOOK_TIMEOUT_S)
        except httpx.HTTPError:
            return False
        # Some servers have no such list; that one says so is an answer too.
        return response.status_code in (200, 404, 405)

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


async def _bounded(response: httpx.Response) -> Any:
    """The JSON of an error answer; None when it is none or too long."""
    data = b""
    async for part in response.aiter_bytes():
        data += part
        if len(data) > _MAX_ERROR_BYTES:
            return None
    try:
        body = msgspec.json.decode(data)
    except msgspec.MsgspecError:
        return None
    return body.get("error", body) if isinstance(body, dict) else None


def _message(error: Any) -> str | None:
    """The message in OpenAI's error object, or in those of servers that write it otherwise."""
    if isinstance(error, str):
        return error
    if isinstance(error, dict):
        message = error.get("message", error.get("detail"))
        return message if isinstance(message, str) else None
    return None


def _seconds(text: str | None) -> float | None:
    """`Retry-After` in seconds; its date form is left out."""
    try:
        return max(0.0, float(text)) if text is not None else None
    except ValueError:
        return None
