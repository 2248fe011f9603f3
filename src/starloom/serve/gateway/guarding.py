"""The guard in the line: texts that can reach a model, texts that come back, and the audit."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from typing import Any

import msgspec

from starloom.serve.errors import ContentRefused
from starloom.serve.gateway.api import Body, ChatBody, Message, TextBody
from starloom.serve.gateway.metrics import Metrics
from starloom.serve.gateway.outlet import Outlet
from starloom.serve.gateway.prompts import LONG_CHARS, Prompts
from starloom.serve.gateway.record import Tracker
from starloom.serve.guard import Audit, Guard, Verdict, audit_records

_READ = ("messages", "prompt", "suffix", "response_format")
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
        texts = list(_strings(read))
        if sum(map(len, texts)) > LONG_CHARS:
            loop = asyncio.get_running_loop()
            checked = await loop.run_in_executor(self._threads, self._guard.check_input, texts)
        else:
            checked = self._guard.check_input(texts)
        if not checked.verdicts:
            tracker.step("guard")
            return body, own
        self.note(checked.verdicts, tracker)
        if checked.blocked:
            raise ContentRefused("the request holds content that this site does not accept")
        masked = _replaced(read, iter(checked.texts).__next__)
        if isinstance(body, ChatBody):
            messages = msgspec.convert(masked["messages"], list[Message])
            body = msgspec.structs.replace(body, messages=messages)
        else:
            body = msgspec.structs.replace(body, prompt=masked["prompt"])
        return body, None if own is None else {**own, **masked}

    def outlet(self, tracker: Tracker, prompt_tokens: int) -> Outlet | None:
        """The filter of one answer; its `close` keeps what it found."""
        if self._guard is None:
            return None
        return Outlet(self._guard.output(), prompt_tokens, lambda found: self.note(found, tracker))

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
            if key not in _NOT_TEXT:
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
            key: item if key in _NOT_TEXT else _replaced(item, following)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_replaced(item, following) for item in value]
    return value
