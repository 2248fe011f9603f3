"""What happens to an upstream's bytes on their way through: counted, guarded, else untouched."""

from collections.abc import Callable
from typing import Any

import msgspec

from starloom.serve.base import Usage
from starloom.serve.engines.sse import DONE, BadStream, Splitter, payload, split
from starloom.serve.gateway.outlet import Outlet
from starloom.serve.gateway.strands import Strands

_FINAL = (b'"choices":[]', b'"choices": []')
"""In the event that carries the usage of a stream, and in no other."""
_DONE_EVENT = b"data: [DONE]\n\n"


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Counted(msgspec.Struct):
    """The part of an answer that tells how many tokens it took."""

    usage: _Usage | None = None


_counted = msgspec.json.Decoder(_Counted)
_object = msgspec.json.Decoder(dict[str, Any])


class Passing:
    """One answer on its way through. `shown` replaces the model's name; `outlet` makes a guard."""

    def __init__(
        self, shown: str | None, outlet: Callable[[], Outlet | None], *, n: int, hide_usage: bool
    ) -> None:
        self.usage: Usage | None = None
        self.chunks = 0
        """Events that came: about one a token, for servers that do not count."""
        self.done = False
        """Whether the stream has said that it is over."""
        self._n = n
        self._shown = shown
        self._new_outlet = outlet
        self._hide_usage = hide_usage
        self._splitter = Splitter()
        self._strands: dict[int, Strands] = {}
        self._guarded = outlet() is not None
        self._cut: set[int] = set()
        self._plain = not self._guarded and shown is None

    def body(self, data: bytes) -> bytes:
        """A whole answer."""
        try:
            self._count(_counted.decode(data).usage)
            if self._plain:
                return data
            answer = _object.decode(data)
        except msgspec.MsgspecError as error:
            raise BadStream(f"the answer is not what the API says: {error}") from error
        if self._shown is not None:
            answer["model"] = self._shown
        changed = self._shown is not None
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
        if self._plain and not any(mark in data for mark in _FINAL):
            if data.endswith((_DONE_EVENT, b"data: [DONE]\r\n\r\n")):
                self.done = True
            return data
        return b"".join([self._event(event) for event in split(data)])

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

    def _event(self, event: bytes) -> bytes:
        data = payload(event)
        if not data:
            return event  # a comment that keeps the connection alive
        if data == DONE:
            self.done = True
            return b"" if self.cut else event  # `end` says it
        if self._plain and not any(mark in data for mark in _FINAL):
            return event
        try:
            answer = _object.decode(data)
            choices = answer.get("choices") or []
            if answer.get("error") is not None and not choices:
                raise BadStream("upstream reports an error")
            if (usage := answer.get("usage")) is not None:
                self._count(msgspec.convert(usage, _Usage))
                if not choices and self._hide_usage:
                    return b""
            changed = self._shown is not None
            if changed:
                answer["model"] = self._shown
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
        if not self._guarded or index in self._cut:
            return False
        strands = self._strands.get(index)
        if strands is None:
            strands = self._strands[index] = Strands(self._new_outlet)
        holder = choice.get("message" if whole else "delta", choice)
        if not isinstance(holder, dict):  # null, in the last event of some servers
            holder = choice["delta"] = {}
        final = whole or bool(choice.get("finish_reason"))
        if not strands.piece(holder, final=final):
            return False
        choice["logprobs"] = None
        if strands.cut:
            self._cut.add(index)
            choice["finish_reason"] = "content_filter"
        return True
