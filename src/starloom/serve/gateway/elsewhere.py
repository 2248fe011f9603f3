"""What only servers elsewhere can do, beside chats and completions: embeddings, moderation, ranks.

Bodies and answers pass as they are; the guard reads what a model would, and quotas, schedule,
metrics and records see the request as they see a chat.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from starloom.serve.errors import BadRequest, TimedOut, UnknownModel
from starloom.serve.gateway.api import Asked, parse_as, parse_object
from starloom.serve.gateway.client import Answering
from starloom.serve.gateway.forward import Forward
from starloom.serve.gateway.guarding import Guarding
from starloom.serve.gateway.prompts import Prompts
from starloom.serve.gateway.quota import Quotas
from starloom.serve.gateway.record import Tracker
from starloom.serve.gateway.workers import Workers
from starloom.serve.schedule import Ask
from starloom.site import Limits

PATHS = {
    "/v1/embeddings": "embeddings",
    "/v1/moderations": "moderation",
    "/v1/rerank": "ranks",
    "/v1/score": "scores",
    "/v1/audio/transcriptions": "transcripts",
}
"""And what they give."""
_asked = msgspec.json.Decoder(Asked)
_NOT_READ = ("model", "user", "encoding_format", "response_format")


class Elsewhere:
    """Sends such requests to a model's servers elsewhere."""

    def __init__(
        self,
        *,
        limits: Limits,
        prompts: Mapping[str, Prompts],
        workers: Workers,
        forward: Forward,
        guarding: Guarding,
        quotas: Quotas,
        now: Callable[[], float],
    ) -> None:
        self._limits = limits
        self._prompts = prompts
        self._workers = workers
        self._forward = forward
        self._guarding = guarding
        self._quotas = quotas
        self._now = now

    async def answer(self, path: str, raw: bytes, tracker: Tracker, client: Answering) -> None:
        """See one request of `PATHS` through. Raises `ServeError`."""
        body = parse_as(_asked, raw)
        if body.stream:
            raise BadRequest("stream: not supported here", param="stream")
        tracker.step("parse")
        own = parse_object(raw)
        if body.model in self._prompts:
            tracker.record.model = body.model
        read = {key: value for key, value in own.items() if key not in _NOT_READ}
        if self._guarding.reads and _has_ids(own.get("input")):
            raise BadRequest("input: token ids cannot be checked; send text", param="input")
        masked = await self._guarding.masked(read, tracker)
        raw = raw if masked is None else msgspec.json.encode({**own, **masked})
        await self.send(path, raw, body, tracker, client, gives=PATHS[path], counts=True)
        tracker.step("answer")

    async def send(
        self,
        path: str,
        raw: bytes,
        body: Asked,
        tracker: Tracker,
        client: Answering,
        *,
        gives: str,
        counts: bool,
    ) -> None:
        """Forward one request. `counts`: whether its tokens are the tenant's."""
        prompts = self._prompts.get(body.model)
        if prompts is None:
            raise UnknownModel(f"there is no model {body.model!r}", param="model")
        tenant = tracker.record.tenant
        able = self._workers.able(body.model, own=False, tenant=tenant)
        if not able.elsewhere:
            what = f"model {body.model!r} gives no {gives}: none of its workers is an `openai` one"
            raise BadRequest(what, param="model")
        tracker.step("route", body.model, "by name")
        tokens = -(-len(raw) // 4) if counts else 1
        ask = Ask(
            prompt_tokens=tokens,
            keys=[],
            block_tokens=prompts.model.block_tokens,
            priority=body.priority or 0,
            now_s=self._now(),
        )
        if counts:
            self._quotas.take(tenant, tokens)
        try:
            async with asyncio.timeout(self._limits.request_timeout_s):
                usage = await self._forward.answer(
                    path, raw, body, ask, tracker, client, never=able.never
                )
        except TimeoutError as error:
            limit = f"{self._limits.request_timeout_s:g} s"
            raise TimedOut(f"the request took longer than {limit}") from error
        if counts:
            tracker.record.prompt_tokens = usage.prompt_tokens
            tracker.record.completion_tokens = usage.completion_tokens
            self._quotas.settle(tenant, usage.prompt_tokens + usage.completion_tokens - tokens)


def _has_ids(given: Any) -> bool:
    return isinstance(given, list) and any(isinstance(item, int | list) for item in given)
