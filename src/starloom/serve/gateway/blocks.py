"""An answer of a chat as a row of blocks: reasoning, text, calls of tools.

Other APIs give their answers so, and a chat in one message with fields. Text after a call, or after
reasoning, is another block. Calls end when the answer does: the guard may have held back the end of
one until then.
"""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import msgspec

from starloom.serve.base import Usage
from starloom.serve.engines.sse import BadStream

Kind = Literal["text", "reasoning", "call"]
_FIELDS: tuple[tuple[str, Kind], ...] = (
    ("reasoning_content", "reasoning"),
    ("reasoning", "reasoning"),
    ("content", "text"),
    ("refusal", "text"),
)


class Block:
    """One block of an answer. `id` and `name` are those of a call."""

    __slots__ = ("id", "index", "kind", "name", "parts")

    def __init__(self, index: int, kind: Kind, call_id: str = "", name: str = "") -> None:
        self.index = index
        self.kind = kind
        self.id = call_id
        self.name = name
        self.parts: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self.parts)

    def arguments(self, *, whole: bool) -> dict[str, Any]:
        """A call's arguments as an object; none where an answer that is not whole broke them off.

        Raises `BadStream`.
        """
        try:
            return msgspec.json.decode(self.text or "{}", type=dict[str, Any])
        except msgspec.MsgspecError as error:
            if whole:
                raise BadStream(f"arguments of {self.name!r} are not a JSON object") from error
            return {}


class Step(NamedTuple):
    """What a chunk does to a block: `open` it, add `more` to it, or `close` it."""

    what: Literal["open", "more", "close"]
    block: Block
    text: str = ""


class Blocks:
    """Reads the first choice of a chat, in chunks or whole."""

    def __init__(self) -> None:
        self.all: list[Block] = []
        self.finish: str | None = None
        self.stop: str | None = None
        """The stop string that ended the answer, from servers that tell."""
        self.usage = Usage(prompt_tokens=0, completion_tokens=0)
        self._open: Block | None = None
        self._calls: dict[int, Block] = {}

    def take(self, chunk: dict[str, Any]) -> list[Step]:
        """The steps of one chunk, or of a whole answer. Raises `BadStream` for another shape."""
        try:
            return list(self._take(chunk))
        except (TypeError, AttributeError, KeyError, IndexError, ValueError) as error:
            raise BadStream(f"an answer has another shape: {error!r}") from error

    def end(self) -> list[Step]:
        """The answer is over."""
        left = [*self._closed(), *(Step("close", block) for block in self._calls.values())]
        return sorted(left, key=lambda step: step.block.index)

    @property
    def whole(self) -> bool:
        """Whether nothing broke the answer off."""
        return self.finish not in ("length", "content_filter")

    def _take(self, chunk: dict[str, Any]) -> Iterator[Step]:
        if (usage := chunk.get("usage")) is not None:
            self.usage = _usage(usage)
        for choice in chunk.get("choices") or ():
            if choice.get("index", 0) != 0:
                continue
            yield from self._said(choice.get("delta") or choice.get("message") or {})
            if (finish := choice.get("finish_reason")) is not None:
                self.finish = finish
                stop = choice.get("stop_reason")
                self.stop = stop if isinstance(stop, str) else None

    def _said(self, said: dict[str, Any]) -> Iterator[Step]:
        seen: set[Kind] = set()
        for field, kind in _FIELDS:
            if (text := said.get(field)) and (kind == "text" or kind not in seen):
                if not isinstance(text, str):
                    raise TypeError(f"{field} is not a string")
                seen.add(kind)
                yield from self._more(kind, text)
        for at, call in enumerate(said.get("tool_calls") or ()):
            yield from self._call(call, call.get("index", at))

    def _more(self, kind: Kind, text: str) -> Iterator[Step]:
        block = self._open
        if block is None or block.kind != kind:
            yield from self._closed()
            block = self._open = self._new(kind)
            yield Step("open", block)
        block.parts.append(text)
        yield Step("more", block, text)

    def _call(self, call: dict[str, Any], index: int) -> Iterator[Step]:
        block = self._calls.get(index)
        function = call.get("function") or {}
        if block is None:
            yield from self._closed()
            name = function["name"]
            call_id = call.get("id") or f"call_{index}"
            block = self._calls[index] = self._new("call", call_id, name)
            yield Step("open", block)
        if text := function.get("arguments"):
            block.parts.append(text)
            yield Step("more", block, text)

    def _new(self, kind: Kind, call_id: str = "", name: str = "") -> Block:
        self.all.append(Block(len(self.all), kind, call_id, name))
        return self.all[-1]

    def _closed(self) -> Iterator[Step]:
        block, self._open = self._open, None
        if block is not None:
            yield Step("close", block)


def _usage(usage: dict[str, Any]) -> Usage:
    details = usage.get("prompt_tokens_details") or {}
    return Usage(
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        completion_tokens=int(usage.get("completion_tokens") or 0),
        cached_tokens=int(details.get("cached_tokens") or 0),
    )
