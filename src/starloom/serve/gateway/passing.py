"""What happens to an upstream's bytes on their way through: counted, guarded, else untouched."""

from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from typing import Any

import msgspec

from starloom.serve.base import Usage
from starloom.serve.engines.sse import DONE, BadStream, Splitter, payload, split
from starloom.serve.gateway.outlet import Outlets
from starloom.serve.gateway.strands import Strands, is_clean

_FINAL = (b'"choices":[]', b'"choices": []')
"""In the event that carries the usage of a stream, and in no other."""
_DONE_EVENT = b"data: [DONE]\n\n"

UsageOf = Callable[[Mapping[str, Any]], dict[str, Any]]
"""The usage of a whole request, from what the server that answered says of it."""


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Counted(msgspec.Struct):
    """The part of an answer that tells how many tokens it took."""

    usage: _Usage | None = None


class _Delta(msgspec.Struct, forbid_unknown_fields=True):
    content: str


class _Choice(msgspec.Struct):
    delta: _Delta
    index: int = 0
    finish_reason: None = None


class _Piece(msgspec.Struct):
    """An event of a chat that says nothing but a piece of one answer's content, as most do."""

    choices: tuple[_Choice]
    usage: None = None


_piece = msgspec.json.Decoder(_Piece)
_counted = msgspec.json.Decoder(_Counted)
_object = msgspec.json.Decoder(dict[str, Any])


class Passing:
    """One answer on its way through. `shown` replaces the model's name; `outlets` are its guard."""

    def __init__(
        self,
        shown: str | None,
        outlets: Outlets | None,
        *,
        n: int,
        hide_usage: bool,
        usage_of: UsageOf | None = None,
    ) -> None:
        self.usage: Usage | None = None
        self.chunks = 0
        """Events that came: about one a token, for servers that do not count."""
        self.done = False
        """Whether the stream has said that it is over."""
        self._n = n
        self._shown = shown
        self._outlets = outlets
        self._hide_usage = hide_usage
        self._usage_of = usage_of
        self._splitter = Splitter()
        self._strands: dict[int, Strands] = {}
        self._cut: set[int] = set()
        self._plain = outlets is None and shown is None
        self._marks: tuple[bytes, ...] = (*_FINAL, b'"error"')
        """Of events that are looked into though nothing is guarded: a first one may be a failure,
        which another server need not have."""

    def body(self, data: bytes) -> bytes:
        """A whole answer."""
        try:
            if self._plain and self._usage_of is None:
                self._count(_counted.decode(data).usage)
                return data
            answer = _object.decode(data)
            changed = self._usage(answer)
        except msgspec.MsgspecError as error:
            raise BadStream(f"the answer is not what the API says: {error}") from error
        if self._shown is not None:
            answer["model"] = self._shown
            changed = True
        # A transcript is its own and only choice.
        choices = answer.get("choices") or ([answer] if isinstance(answer.get("text"), str) else ())
        for choice in choices:
            changed |= self._piece(choice, whole=True)
        return msgspec.json.encode(answer) if changed else data

    def events(self, data: bytes) -> bytes:
        """Bytes of a stream; gives those of whole events that may go on. Raises `BadStream`."""
        data = self._splitter.whole(data)
        if not data:
            return data
        self.chunks += data.count(b"data:")
        if not self._plain or any(mark in data for mark in self._marks):
            data = b"".join(self._each(split(data)))
        elif data.endswith((_DONE_EVENT, b"data: [DONE]\r\n\r\n")):
            self.done = True
        self._marks = _FINAL
        return data

    @property
    def cut(self) -> bool:
        """Whether the guard has ended all answers, so that nothing more of them is of use."""
        return len(self._cut) >= self._n

    def end(self) -> bytes:
        """The stream is over: what was left of it, as an event."""
        if self.cut:
            self.done = True
            return _DONE_EVENT
        rest = self._splitter.rest()
        return self._event(rest + b"\n\n") if rest.strip() else b""

    def close(self) -> None:
        """Tell what the guard found."""
        for strands in self._strands.values():
            strands.close()

    def _each(self, events: list[bytes]) -> Iterator[bytes]:
        """What of each event may go on; the guard looks at pieces of one content together."""
        if self._outlets is None or self._shown is not None:
            yield from map(self._event, events)
            return
        for index, group in groupby(zip(events, map(_content, events), strict=True), key=_index):
            if index is None or index in self._cut:
                yield from (self._event(event) for event, _ in group)
            else:
                yield from self._together(index, list(group))

    def _together(
        self, index: int, found: list[tuple[bytes, tuple[int, str] | None]]
    ) -> Iterator[bytes]:
        strands = self._strands_of(index)
        said = [piece[1] for _, piece in found if piece is not None]
        shown = strands.pieces(said)
        for left, (event, _) in zip(range(len(found) - 1, -1, -1), found, strict=True):
            text, out = said[-left - 1], shown[-left - 1]
            if text == out and (left or not strands.cut):
                yield event
                continue
            answer = _object.decode(payload(event))
            choice = answer["choices"][0]
            choice["delta"]["content"], choice["logprobs"] = out, None
            if strands.cut:
                self._cut.add(index)
                choice["finish_reason"] = "content_filter"
            yield b"data: " + msgspec.json.encode(answer) + b"\n\n"
            if strands.cut:
                return

    def _event(self, event: bytes) -> bytes:
        data = payload(event)
        if not data:
            return event  # a comment that keeps the connection alive
        if data == DONE:
            self.done = True
            return b"" if self.cut else event  # `end` says it
        if self._plain and not any(mark in data for mark in self._marks):
            return event
        try:
            answer = _object.decode(data)
            choices = answer.get("choices") or []
            if answer.get("error") is not None and not choices:
                raise BadStream("upstream reports an error")
            changed = self._usage(answer)
            if answer.get("usage") is not None and not choices and self._hide_usage:
                return b""
            if self._shown is not None:
                answer["model"] = self._shown
                changed = True
            kept = []
            for choice in choices:
                before = choice.get("index", 0) in self._cut
                changed |= self._piece(choice)
                if not before:
                    kept.append(choice)
        except (msgspec.MsgspecError, TypeError, AttributeError, KeyError) as error:
            raise BadStream(f"an event has another shape: {error}") from error
        if choices and not kept:
            return b""
        if not changed:
            return event
        answer["choices"] = kept
        return b"data: " + msgspec.json.encode(answer) + b"\n\n"

    def _usage(self, answer: dict[str, Any]) -> bool:
        """Count what an answer or event says of its tokens; whether that was corrected."""
        usage = answer.get("usage")
        if usage is None:
            return False
        self._count(msgspec.convert(usage, _Usage))
        if self._usage_of is None:
            return False
        answer["usage"] = self._usage_of(usage)
        self._count(msgspec.convert(answer["usage"], _Usage))
        return bool(answer["usage"] != usage)

    def _count(self, usage: _Usage | None) -> None:
        if usage is None or usage.prompt_tokens is None:
            return
        details = usage.prompt_tokens_details
        self.usage = Usage(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens or 0,
            cached_tokens=(details.cached_tokens or 0) if details is not None else 0,
        )

    def _piece(self, choice: dict[str, Any], *, whole: bool = False) -> bool:
        """Guard one choice, of an event or of a whole answer; whether it was changed."""
        index = choice.get("index", 0)
        if self._outlets is None or index in self._cut:
            return False
        holder = choice.get("message" if whole else "delta", choice)
        if not isinstance(holder, dict):  # null, in the last event of some servers
            holder = choice["delta"] = {}
        if whole and is_clean(holder, self._outlets.is_clean):
            return False
        strands = self._strands_of(index)
        final = whole or bool(choice.get("finish_reason"))
        if not strands.piece(holder, final=final):
            return False
        choice["logprobs"] = None
        if strands.cut:
            self._cut.add(index)
            choice["finish_reason"] = "content_filter"
        return True

    def _strands_of(self, index: int) -> Strands:
        strands = self._strands.get(index)
        if strands is None:
            assert self._outlets is not None  # noqa: S101  the callers looked
            strands = self._strands[index] = Strands(self._outlets.make)
        return strands


def _content(event: bytes) -> tuple[int, str] | None:
    """The choice's index and its content, of an event that says no more; else None."""
    try:
        choice = _piece.decode(payload(event)).choices[0]
    except msgspec.MsgspecError:
        return None
    return choice.index, choice.delta.content


def _index(found: tuple[bytes, tuple[int, str] | None]) -> int | None:
    return None if found[1] is None else found[1][0]
