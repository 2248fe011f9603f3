"""The guard at the way in: every text of a request that can reach a model is shown to it."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import msgspec

from starloom.serve.errors import ContentRefused
from starloom.serve.gateway.api import Body, ChatBody, Message, TextBody
from starloom.serve.gateway.metrics import Metrics
from starloom.serve.gateway.outlet import Outlet, OutputFilter
from starloom.serve.gateway.prompts import Prompts
from starloom.serve.gateway.record import Tracker

_READ = ("messages", "prompt", "suffix", "tools", "functions", "response_format")
_NOT_TEXT = ("role", "type")


class Verdict(Protocol):
    """What the guard says of texts."""

    @property
    def blocked(self) -> bool: ...
    @property
    def texts(self) -> list[str]:
        """The texts, masked where they have to be."""


class Checker(Protocol):
    """The guard as the line needs it."""

    def check_input(self, texts: list[str]) -> Verdict: ...
    def output(self) -> OutputFilter: ...


class Guarding:
    """Shows requests and answers to the guard, and counts what it did."""

    def __init__(self, guard: Checker | None, metrics: Metrics) -> None:
        self._guard = guard
        self._metrics = metrics

    def checked(
        self, body: Body, own: dict[str, Any] | None, prompts: Prompts, tracker: Tracker
    ) -> tuple[Body, dict[str, Any] | None]:
        """The request as it may go on, masked if need be. Raises `ContentRefused`.

        `own` is the client's own body, for backends that get that.
        """
        if self._guard is None:
            return body, own
        shown = _shown(body, prompts) if own is None else own
        read = {field: shown[field] for field in _READ if field in shown}
        texts = list(_strings(read))
        verdict = self._guard.check_input(texts)
        if verdict.blocked:
            self._metrics.guarded("input", "block")
            tracker.step("guard", "blocked")
            raise ContentRefused("the request holds content that this site does not accept")
        if verdict.texts == texts:
            tracker.step("guard")
            return body, own
        self._metrics.guarded("input", "mask")
        tracker.step("guard", "masked")
        masked = _replaced(read, iter(verdict.texts).__next__)
        if isinstance(body, ChatBody):
            messages = msgspec.convert(masked["messages"], list[Message])
            body = msgspec.structs.replace(body, messages=messages)
        else:
            body = msgspec.structs.replace(body, prompt=masked["prompt"])
        return body, None if own is None else {**own, **masked}

    def outlet(self, prompt_tokens: int) -> Outlet | None:
        """The filter of one answer."""
        if self._guard is None:
            return None
        return Outlet(self._guard.output(), prompt_tokens)


def _shown(body: Body, prompts: Prompts) -> dict[str, Any]:
    """What a worker of ours will read; token ids as the text that they stand for."""
    if isinstance(body, ChatBody):
        return {"messages": msgspec.to_builtins(body.messages)}
    return {"prompt": _texts(body, prompts)}


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
