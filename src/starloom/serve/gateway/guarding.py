"""The guard in the line: texts that can reach a model, texts that come back, and the audit."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from typing import Any

import msgspec

from starloom.serve.errors import ContentRefused
from starloom.serve.gateway.api import Body, ChatBody, Message, TextBody, parse_object
from starloom.serve.gateway.metrics import Metrics
from starloom.serve.gateway.outlet import Outlet, Outlets
from starloom.serve.gateway.prompts import LONG_CHARS, Prompts
from starloom.serve.gateway.record import Tracker
from starloom.serve.guard import Audit, Guard, Verdict, audit_records, is_payload, media_parts

_READ = ("messages", "prompt", "suffix", "response_format", "tools", "functions")
_NOT_TEXT = ("role", "type")


class Guarding:
    """Shows requests and answers to the guard, and keeps what it found."""

    def __init__(
        self, guard: Guard | None, audit: Audit | None, metrics: Metrics, threads: Executor
    ) -> None:
        self._guard = guard
        self._audit = audit
        self._metrics = metrics
        self._threads = threads

    async def checked(
        self, body: Body, own: dict[str, Any] | None, prompts: Prompts, tracker: Tracker
    ) -> tuple[Body, dict[str, Any] | None]:
        """The request as it may go on, masked if need be. Raises `ContentRefused`.

        `own` is the client's own body, for backends that get that.
        """
        if self._guard is None:
            return body, own
        shown = {**(own or {}), **_shown(body, own, prompts)}
        read = {field: shown[field] for field in _READ if field in shown}
        masked = await self.masked(read, tracker)
        if masked is None:
            return body, own
        if isinstance(body, ChatBody):
            messages = msgspec.convert(masked["messages"], list[Message])
            body = msgspec.structs.replace(body, messages=messages)
        else:
            body = msgspec.structs.replace(body, prompt=masked["prompt"])
        return body, None if own is None else {**own, **masked}

    @property
    def reads(self) -> bool:
        """Whether requests are looked at."""
        return self._guard is not None

    async def masked(self, read: dict[str, Any], tracker: Tracker) -> dict[str, Any] | None:
        """Fields with what they hold masked; None where nothing was. Raises `ContentRefused`."""
        if self._guard is None:
            return None
        texts = list(_strings(read))
        if sum(map(len, texts)) > LONG_CHARS:
            loop = asyncio.get_running_loop()
            checked = await loop.run_in_executor(self._threads, self._guard.check_input, texts)
        else:
            checked = self._guard.check_input(texts)
        media = media_parts(read.get("messages"))
        deep: list[Verdict] = []
        if not checked.blocked and (media or self._guard.awaits):
            deep = await self._guard.check_deep(checked.texts, media)
        if not checked.verdicts and not deep:
            tracker.step("guard")
            return None
        self.note([*checked.verdicts, *deep], tracker)
        if checked.blocked or any(verdict.action == "block" for verdict in deep):
            raise ContentRefused("the request holds content that this site does not accept")
        if not checked.verdicts:
            return None
        masked: dict[str, Any] = _replaced(read, iter(checked.texts).__next__)
        return masked

    async def passing(
        self, body: Body, raw: bytes, prompts: Prompts, tracker: Tracker
    ) -> tuple[Body, bytes]:
        """The same for a body that goes on as bytes: they are taken apart only where they must."""
        if self._guard is None:
            return body, raw
        texts = _plain_texts(body)
        is_short = texts is not None and sum(map(len, texts)) <= LONG_CHARS
        if (
            is_short
            and not self._guard.awaits
            and not self._guard.check_input(texts or ()).verdicts
        ):
            tracker.step("guard")
            return body, raw
        own = parse_object(raw)
        body, changed = await self.checked(body, own, prompts, tracker)
        return body, raw if changed is own or changed is None else msgspec.json.encode(changed)

    def outlets(self, tracker: Tracker, prompt_tokens: int) -> Outlets | None:
        """The guard of one answer; the `close` of each outlet keeps what it found."""
        if self._guard is None or not self._guard.filters:
            return None
        return Outlets(self._guard, prompt_tokens, lambda found: self.note(found, tracker))

    def outlet(self, tracker: Tracker, prompt_tokens: int) -> Outlet | None:
        """The guard of an answer that is one text."""
        outlets = self.outlets(tracker, prompt_tokens)
        return None if outlets is None else outlets.make()

    def note(self, verdicts: list[Verdict], tracker: Tracker) -> None:
        """Count and audit what was found in one text."""
        if not verdicts:
            return
        record = tracker.record
        for verdict in verdicts:
            self._metrics.guarded(verdict.where, verdict.action)
        lists = ", ".join(sorted({f"{verdict.action} {verdict.list}" for verdict in verdicts}))
        tracker.step("guard", verdicts[0].where, lists)
        if self._audit is not None:
            at = tracker.wall()
            found = audit_records(verdicts, time_s=at, request=record.id, tenant=record.tenant)
            self._audit.write(found)


def _plain_texts(body: Body) -> list[str] | None:
    """The texts of a body that holds nothing else for a model to read, as most do; else None."""
    if body.response_format is not None:
        return None
    if isinstance(body, TextBody):
        return [body.prompt] if isinstance(body.prompt, str) and body.suffix is None else None
    if body.tools or body.functions:
        return None
    texts = []
    for message in body.messages:
        if not isinstance(message.content, str) or message.tool_calls or message.name is not None:
            return None
        texts.append(message.content)
    return texts


def _shown(body: Body, own: dict[str, Any] | None, prompts: Prompts) -> dict[str, Any]:
    """What a worker will read of the prompt; token ids as the text that they stand for."""
    if isinstance(body, TextBody):
        return {"prompt": _texts(body, prompts)}
    return {"messages": msgspec.to_builtins(body.messages)} if own is None else {}


def _texts(body: TextBody, prompts: Prompts) -> list[str]:
    return [text if isinstance(text, str) else prompts.decode(text) for text in body.prompts]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if key not in _NOT_TEXT and not is_payload(key, item):
                yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)


def _replaced(value: Any, following: Callable[[], str]) -> Any:
    """`value` with the strings that `_strings` gives, in its order, replaced."""
    if isinstance(value, str):
        return following()
    if isinstance(value, Mapping):
        return {
            key: item if key in _NOT_TEXT or is_payload(key, item) else _replaced(item, following)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_replaced(item, following) for item in value]
    return value
