"""Server-sent events of OpenAI's streaming API, and what they say as deltas."""

import re
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from starloom.serve.base import Delta, Finish, TokenLogprob, Usage

_FINISHES: dict[str, Finish] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "tool_calls": "stop",
    "function_call": "stop",
}
_MAX_EVENT_BYTES = 8 << 20
DONE = b"[DONE]"
_BLANK = re.compile(rb"\n\n|\r\n\r\n")


class BadStream(Exception):
    """The upstream's stream is not what OpenAI's API says."""


class Splitter:
    """Cuts a stream of bytes into events, wherever it was cut on its way."""

    def __init__(self) -> None:
        self._rest = b""

    def whole(self, data: bytes) -> bytes:
        """The part of what came so far that holds whole events. Raises `BadStream`."""
        if self._rest:
            data, self._rest = self._rest + data, b""
        if data.endswith((b"\n\n", b"\r\n\r\n")):
            return data
        cut = max(data.rfind(b"\n\n") + 2 if b"\n\n" in data else 0, _crlf_end(data))
        self._rest = data[cut:]
        if len(self._rest) > _MAX_EVENT_BYTES:
            raise BadStream("an event is over 8 MiB")
        return data[:cut]

    def rest(self) -> bytes:
        """What is left at the end: an event that nothing closed."""
        rest, self._rest = self._rest, b""
        return rest


def split(data: bytes) -> list[bytes]:
    """Events in bytes that hold whole ones, each with its blank line."""
    events, at = [], 0
    for blank in _BLANK.finditer(data):
        events.append(data[at : blank.end()])
        at = blank.end()
    return events


def payload(event: bytes) -> bytes:
    """The data of one event; empty for comments."""
    if event.startswith(b"data:") and event.count(b"\n") <= 2:  # the usual one line
        return event[5:].strip()
    lines = [line[5:].strip() for line in event.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines)


async def events(parts: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
    """Objects of the `data:` fields until `[DONE]`. Raises `BadStream`."""
    splitter = Splitter()
    async for part in parts:
        for event in split(splitter.whole(part)):
            data = payload(event)
            if data == DONE:
                return
            if data:
                yield _parse(data)
    data = payload(splitter.rest())
    if data and data != DONE:
        yield _parse(data)


def _crlf_end(data: bytes) -> int:
    at = data.rfind(b"\r\n\r\n")
    return at + 4 if at >= 0 else 0


def _parse(text: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise BadStream(f"an event is not a JSON object: {error}") from error


class Answer:
    """Turns the events of one upstream answer (choice 0) into deltas.

    The delta with `finish` waits for the usage that follows the last choice.
    """

    def __init__(self, request_id: str) -> None:
        self._id = request_id
        self._finish: Finish | None = None
        self._stop: str | None = None
        self._usage: Usage | None = None
        self._chunks = 0

    def take(self, event: dict[str, Any]) -> Delta | None:
        """What one event adds. Raises `BadStream` for an event of another shape."""
        try:
            return self._take(event)
        except (TypeError, AttributeError, KeyError, IndexError, ValueError) as error:
            raise BadStream(f"an event has another shape: {error!r}") from error

    def end(self) -> Delta | None:
        """The last delta, once the stream is over; None when it broke off before its finish."""
        if self._finish is None:
            return None
        usage = self._usage or Usage(prompt_tokens=0, completion_tokens=self._chunks)
        return Delta(id=self._id, finish=self._finish, stop=self._stop, usage=usage)

    def _take(self, event: dict[str, Any]) -> Delta | None:
        if (usage := event.get("usage")) is not None:
            self._usage = _usage(usage)
        for choice in event.get("choices") or []:
            if choice.get("index", 0) != 0:
                continue
            if (reason := choice.get("finish_reason")) is not None:
                self._finish = _FINISHES.get(reason, "stop")
                stop = choice.get("stop_reason")  # vLLM's name for the string that matched
                self._stop = stop if isinstance(stop, str) else None
            text = _text(choice)
            logprobs = _logprobs(choice.get("logprobs") or {})
            if text or logprobs:
                tokens = len(logprobs) or 1
                self._chunks += tokens
                return Delta(id=self._id, text=text, tokens=tokens, logprobs=logprobs)
        return None


def _text(choice: dict[str, Any]) -> str:
    text = choice["text"] if "text" in choice else (choice.get("delta") or {}).get("content")
    if text is not None and not isinstance(text, str):
        raise TypeError("text is not a string")
    return text or ""


def _usage(usage: dict[str, Any]) -> Usage:
    details = usage.get("prompt_tokens_details") or {}
    return Usage(
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        completion_tokens=int(usage.get("completion_tokens") or 0),
        cached_tokens=int(details.get("cached_tokens") or 0),
    )


def _logprobs(found: dict[str, Any]) -> list[TokenLogprob]:
    """Logprobs of chat (`content`) or of completions (parallel lists)."""
    if "content" in found:
        return [
            TokenLogprob(*_token(entry), [_token(top) for top in entry.get("top_logprobs") or []])
            for entry in found["content"] or []
        ]
    tokens = found.get("tokens") or []
    values = found.get("token_logprobs") or []
    tops = found.get("top_logprobs") or [{}] * len(tokens)
    return [
        TokenLogprob(
            token,
            token.encode(),
            float(value),
            [(text, text.encode(), float(v)) for text, v in (top or {}).items()],
        )
        for token, value, top in zip(tokens, values, tops, strict=True)
        if value is not None
    ]


def _token(entry: dict[str, Any]) -> tuple[str, bytes, float]:
    text = entry["token"]
    data = entry.get("bytes")
    return text, bytes(data) if data is not None else text.encode(), float(entry["logprob"])
