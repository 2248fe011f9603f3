"""The line: a request's way in, from a body to an answer.

parse → (authenticated at the door) → route → guard the input → tokenise and key → schedule →
worker, past the guard of the output → client.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from starloom.serve.base import EngineRequest, Sampling, Usage
from starloom.serve.errors import BadRequest, ContextTooLong, TimedOut, UnknownModel
from starloom.serve.gateway.api import (
    HANDS_OVER,
    Body,
    ChatBody,
    parse_chat,
    parse_object,
    parse_text,
)
from starloom.serve.gateway.choose import Chooser, Gate
from starloom.serve.gateway.client import Answering
from starloom.serve.gateway.deadlines import Deadlines
from starloom.serve.gateway.forward import Forward
from starloom.serve.gateway.guarding import Guarding
from starloom.serve.gateway.halves import Halves
from starloom.serve.gateway.prompts import Prompt, Prompts, Wall
from starloom.serve.gateway.quota import Quotas
from starloom.serve.gateway.record import Tracker
from starloom.serve.gateway.refuse import NOT_AS_DELTAS, unsupported
from starloom.serve.gateway.relay import Answer, Relay, Sequence
from starloom.serve.gateway.shapes import ChatShape, PromptDetails, Shape, TextShape, Tokens
from starloom.serve.gateway.workers import Able, Workers
from starloom.serve.schedule import Ask
from starloom.site import Limits, Tenant

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
_MAX_SEQUENCES = 256
_SEEDS = 2**63
_NOT_PASSED = frozenset({"n", "best_of", *HANDS_OVER})
_T = TypeVar("_T")


class Line:
    """Answers chats and completions. Holds no state of requests but how many run."""

    def __init__(
        self,
        *,
        limits: Limits,
        prompts: Mapping[str, Prompts],
        workers: Workers,
        relay: Relay,
        forward: Forward,
        halves: Halves,
        guarding: Guarding,
        draw_seed: Callable[[], int],
        chooser: Chooser,
        quotas: Quotas,
        tenants: Mapping[str, Tenant],
        now: Callable[[], float],
    ) -> None:
        self._limits = limits
        self._deadlines = Deadlines(limits.request_timeout_s, now)
        self.prompts = prompts
        self._workers = workers
        self._relay = relay
        self._forward = forward
        self._halves = halves
        self._guarding = guarding
        self._draw_seed = draw_seed
        self._chooser = chooser
        self._quotas = quotas
        self._tenants = tenants
        self._now = now

    async def answer(self, path: str, raw: bytes, tracker: Tracker, client: Answering) -> None:
        """Read the request, compute and send the answer. Raises `ServeError` before or within."""
        body: Body = parse_chat(raw) if path == CHAT else parse_text(raw)
        tracker.step("parse")
        task = self._deadlines.begin()
        late = False
        gate: Gate | None = None
        try:
            if body.model in self._chooser.names:
                body, raw, gate = await self._chooser.choose(body, raw, tracker)
            await self._answer(body, raw, tracker, client)
        except asyncio.CancelledError:
            late = self._deadlines.end(task)
            if not late:
                raise
        finally:
            self._deadlines.end(task)
            if gate is not None:
                gate.leave()
        if late:
            task.uncancel()
            raise TimedOut(f"the request took longer than {self._limits.request_timeout_s:g} s")

    async def _answer(self, body: Body, raw: bytes, tracker: Tracker, client: Answering) -> None:
        prompts, workers = self._route(body, tracker)
        if workers.elsewhere:
            await self._passed_on(body, raw, prompts, workers, tracker, client)
            return
        own = parse_object(raw) if workers.upstream else None
        body, own = await self._guarding.checked(body, own, prompts, tracker)
        sequences = await self._sequences(body, own, prompts, workers.never, tracker)
        counted = sum(sequence.ask.prompt_tokens for sequence in sequences[:: body.n or 1])
        self._quotas.take(tracker.record.tenant, counted)
        shape = _shape(body, tracker)
        if body.stream:
            usages = await self._streamed(sequences, shape, tracker, client)
            client.finish(shape.closing(_count(usages, body.n or 1, tracker)))
        else:
            answers = await _all([self._relay.collect(one, tracker) for one in sequences])
            usages = [_usage(one, answer) for one, answer in zip(sequences, answers, strict=True)]
            usage = _count(usages, body.n or 1, tracker)
            client.headers.append(_workers(tracker))
            client.json(200, shape.whole(answers, usage))
        self._settle(counted, tracker)
        tracker.step("answer")

    def _settle(self, counted: int, tracker: Tracker) -> None:
        """Count to the tenant what the answer took beyond the prompt, as it was counted."""
        record = tracker.record
        used = record.prompt_tokens + record.completion_tokens
        self._quotas.settle(record.tenant, used - counted)

    async def _passed_on(
        self,
        body: Body,
        raw: bytes,
        prompts: Prompts,
        workers: Able,
        tracker: Tracker,
        client: Answering,
    ) -> None:
        """What only servers elsewhere can do: bodies and answers pass as they are."""
        body, raw = await self._guarding.passing(body, raw, prompts, tracker)
        wall = Wall(tracker.record.tenant, body.cache_salt or "")
        _, prompt = (await self._prompted(body, prompts, wall))[0]
        tracker.step("key", f"about {prompt.size_tokens} tokens")
        ask = self._ask(prompt, prompts, body.priority, tracker)
        self._quotas.take(tracker.record.tenant, prompt.size_tokens)
        sender = self._halves if workers.disagg else self._forward
        usage = await sender.answer(
            _path(body), raw, body, ask, tracker, client, never=workers.never, root=prompt.root
        )
        _count([usage], 1, tracker)
        self._settle(prompt.size_tokens, tracker)
        tracker.step("answer")

    def _route(self, body: Body, tracker: Tracker) -> tuple[Prompts, Able]:
        """The model, and which of its workers can do what the request asks for."""
        prompts = self.prompts.get(body.model)
        if prompts is None:
            raise UnknownModel(f"there is no model {body.model!r}", param="model")
        tracker.record.model = body.model
        tracker.record.stream = bool(body.stream)
        if (body.n or 1) > self._limits.max_n:
            raise BadRequest(f"n: at most {self._limits.max_n}", param="n")
        tenant = tracker.record.tenant
        able = self._workers.able(body.model, own=True, tenant=tenant)
        refusal = None if able.elsewhere else unsupported(body)
        if refusal is not None:
            able = self._workers.able(body.model, own=False, tenant=tenant)
            if not able.upstream or (not able.elsewhere and refusal.param in NOT_AS_DELTAS):
                raise refusal
        tracker.step("route", body.model, refusal.message if refusal is not None else "by name")
        return prompts, able

    async def _sequences(
        self,
        body: Body,
        own: dict[str, Any] | None,
        prompts: Prompts,
        never: Collection[str],
        tracker: Tracker,
    ) -> list[Sequence]:
        """One sequence for each prompt and each of its n answers."""
        wall = Wall(tracker.record.tenant, body.cache_salt or "")
        made = await self._prompted(body, prompts, wall)
        n = body.n or 1
        if len(made) * n > _MAX_SEQUENCES:
            raise BadRequest(f"prompt: at most {_MAX_SEQUENCES} answers a request", param="prompt")
        seed = self._draw_seed() if body.seed is None else body.seed
        sequences: list[Sequence] = []
        for place, (text, prompt) in enumerate(made):
            limit = _answer_tokens(body, prompt, prompts)
            for at in range(n):
                index = place * n + at
                request = EngineRequest(
                    id=f"{tracker.unique}-{index}",
                    model=body.model,
                    tokens=prompt.tokens,
                    keys=prompt.keys if prompt.tokens else [],
                    root=prompt.root,
                    sampling=_sampling(body, limit, (seed + at) % _SEEDS),
                    priority=body.priority or 0,
                    body=None if own is None else _own(own, text, body.seed, at),
                    passed=b"" if own is None else tracker.passed,
                    path="" if own is None else _path(body),
                )
                ask = self._ask(prompt, prompts, body.priority, tracker)
                sequences.append(Sequence(index, request, ask, never))
        tracker.step("tokenise", f"{sum(prompt.size_tokens for _, prompt in made)} tokens")
        return sequences

    def _ask(self, prompt: Prompt, prompts: Prompts, priority: int | None, tracker: Tracker) -> Ask:
        """What the schedule may know. Targets are the request's, else its tenant's."""
        tenant = self._tenants.get(tracker.record.tenant)
        ttft_s, tpot_s = tracker.ttft_target_s, tracker.tpot_target_s
        if tenant is not None:
            if ttft_s is None and tenant.ttft_target_ms is not None:
                ttft_s = tenant.ttft_target_ms / 1e3
            if tpot_s is None and tenant.tpot_target_ms is not None:
                tpot_s = tenant.tpot_target_ms / 1e3
        return Ask(
            prompt_tokens=prompt.size_tokens,
            keys=prompt.keys,
            block_tokens=prompts.model.block_tokens,
            now_s=self._now(),
            priority=priority or 0,
            ttft_target_s=ttft_s,
            tpot_target_s=tpot_s,
        )

    async def _prompted(
        self, body: Body, prompts: Prompts, wall: Wall
    ) -> list[tuple[str | list[int] | None, Prompt]]:
        if isinstance(body, ChatBody):
            return [(None, await prompts.chat(body.messages, wall))]
        texts = body.prompts
        if len(texts) > _MAX_SEQUENCES:
            raise BadRequest(f"prompt: at most {_MAX_SEQUENCES} prompts", param="prompt")
        return [(text, await prompts.text(text, wall)) for text in texts]

    async def _streamed(
        self, sequences: list[Sequence], shape: Shape, tracker: Tracker, client: Answering
    ) -> list[Usage]:
        """Send all answers as they come, merged by their index."""

        async def one(sequence: Sequence) -> Usage:
            begun, tokens = False, 0
            usage: Usage | None = None
            async with aclosing(self._relay.stream(sequence, tracker)) as deltas:
                async for delta in deltas:
                    frames = shape.piece(sequence.index, delta)
                    if not begun:
                        begun = True
                        if not client.streaming:
                            client.headers.append(_workers(tracker))
                        frames = shape.opening(sequence.index) + frames
                    tokens += delta.tokens
                    usage = delta.usage
                    if frames:
                        await client.event(frames)
            return usage or _counted(sequence, tokens)

        return await _all([one(sequence) for sequence in sequences])


def _workers(tracker: Tracker) -> tuple[bytes, bytes]:
    """The header that names who answers."""
    record = tracker.record
    names = [*sorted(set(record.helpers.values())), *sorted(set(record.workers.values()))]
    return b"x-starloom-worker", ",".join(names).encode()


def _answer_tokens(body: Body, prompt: Prompt, prompts: Prompts) -> int:
    """Tokens that the answer may have: what was asked for, else what is left of the context."""
    context = prompts.model.context_tokens
    if not prompt.tokens:  # the backend counts
        return body.answer_tokens or context
    left = context - len(prompt.tokens)
    if left < (body.answer_tokens or 1):
        raise ContextTooLong(
            f"the model's context has {context} tokens: {len(prompt.tokens)} of the prompt and"
            f" {body.answer_tokens or 1} of the answer do not fit",
            param="messages" if isinstance(body, ChatBody) else "prompt",
        )
    return body.answer_tokens or left


def _sampling(body: Body, limit: int, seed: int) -> Sampling:
    return Sampling(
        max_tokens=limit,
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=body.top_p or 1.0,
        top_k=max(body.top_k or 0, 0),
        seed=seed,
        stop=body.stops,
        logprobs=body.top,
        ignore_eos=bool(body.ignore_eos),
        min_tokens=min(body.min_tokens or 0, limit),
    )


def _own(
    own: dict[str, Any], prompt: str | list[int] | None, seed: int | None, at: int
) -> dict[str, Any]:
    """The client's body for one of its answers; n of these stand for `n`."""
    changed = {key: value for key, value in own.items() if key not in _NOT_PASSED}
    if prompt is not None:
        changed["prompt"] = prompt
    if seed is not None:
        changed["seed"] = seed + at
    return changed


def _path(body: Body) -> str:
    return CHAT if isinstance(body, ChatBody) else TEXT


def _shape(body: Body, tracker: Tracker) -> Shape:
    chat = isinstance(body, ChatBody)
    make = ChatShape if chat else TextShape
    return make(
        f"{'chatcmpl' if chat else 'cmpl'}-{tracker.unique}",
        int(tracker.record.at),
        body.model,
        logprobs=body.top is not None,
        include_usage=body.include_usage or not body.stream,
    )


def _usage(sequence: Sequence, answer: Answer) -> Usage:
    return answer.usage or _counted(sequence, answer.tokens)


def _counted(sequence: Sequence, tokens: int) -> Usage:
    """For a worker that did not say."""
    return Usage(prompt_tokens=sequence.ask.prompt_tokens, completion_tokens=tokens)


def _count(usages: list[Usage], n: int, tracker: Tracker) -> Tokens:
    """All answers' tokens; a prompt counts once, however many answers it has."""
    firsts = usages[::n]
    record = tracker.record
    record.prompt_tokens = sum(usage.prompt_tokens for usage in firsts)
    record.cached_tokens = sum(usage.cached_tokens for usage in firsts)
    record.pool_tokens = sum(usage.pool_tokens for usage in firsts)
    record.completion_tokens = sum(usage.completion_tokens for usage in usages)
    return Tokens(
        record.prompt_tokens,
        record.completion_tokens,
        record.prompt_tokens + record.completion_tokens,
        PromptDetails(record.cached_tokens),
    )


async def _all(calls: list[Coroutine[Any, Any, _T]]) -> list[_T]:
    """The results of all, in order; the first failure cancels the rest and is raised."""
    if len(calls) == 1:
        return [await calls[0]]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    return [task.result() for task in tasks]
