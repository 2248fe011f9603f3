"""Server-sent events of OpenAI's streaming API, and what they say as deltas."""

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
_MAX_EVENT_CHARS = 8 << 20


class BadStream(Exception):
    """The upstream's stream is not what OpenAI's API says."""


async def events(lines: AsyncIterator[str]) -> AsyncIterator[dict[str, Any]]:
    """Objects of the `data:` fields until `[DONE]`. Raises `BadStream`."""
    data: list[str] = []
    size = 0
    async for line in lines:
        if line.startswith("data:"):
            data.append(line[5:].removeprefix(" "))
            size += len(line)
            if size > _MAX_EVENT_CHARS:
                raise BadStream("an event is over 8 Mi characters")
        elif not line and data:
            text, data, size = "\n".join(data), [], 0
            if text == "[DONE]":
                return
            yield _parse(text)
    if data and (text := "\n".join(data)) != "[DONE]":
        yield _parse(text)


def _parse(text: str) -> dict[str, Any]:
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
