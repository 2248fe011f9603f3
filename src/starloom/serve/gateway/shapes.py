"""Answers in OpenAI's shapes, whole and in pieces, for chats and for completions."""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from msgspec import UNSET, UnsetType

from starloom.serve.base import Delta, TokenLogprob
from starloom.serve.gateway.relay import Answer

_LEAST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON cannot say."""
_encode = msgspec.json.Encoder().encode
DONE = b"data: [DONE]\n\n"


class PromptDetails(msgspec.Struct):
    cached_tokens: int


class Tokens(msgspec.Struct):
    """OpenAI's `usage`."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails


class Choice(msgspec.Struct):
    index: int
    text: str | UnsetType = UNSET
    message: dict[str, Any] | UnsetType = UNSET
    delta: dict[str, Any] | UnsetType = UNSET
    logprobs: dict[str, Any] | None = None
    finish_reason: str | None = None
    stop_reason: str | UnsetType = UNSET
    """vLLM's name for the stop string that ended the answer."""


class Reply(msgspec.Struct):
    id: str
    object: str
    created: int
    model: str
    choices: list[Choice]
    usage: Tokens | UnsetType | None = UNSET
    system_fingerprint: str | None = None


class Shape(Protocol):
    """How one request is answered."""

    def opening(self, index: int) -> bytes:
        """The first frame of a choice."""

    def piece(self, index: int, delta: Delta) -> bytes:
        """Frames of a delta; empty when it has nothing to show."""

    def closing(self, usage: Tokens) -> bytes:
        """The last frames of a stream."""

    def whole(self, answers: Sequence[Answer], usage: Tokens) -> bytes:
        """The whole answer as one body."""


class _Shape:
    def __init__(
        self, reply_id: str, created: int, model: str, *, logprobs: bool, include_usage: bool
    ) -> None:
        self._id = reply_id
        self._created = created
        self._model = model
        self._logprobs = logprobs
        self._include_usage = include_usage

    def closing(self, usage: Tokens) -> bytes:
        if not self._include_usage:
            return DONE
        return self._frame([], usage) + DONE

    def _frame(self, choices: list[Choice], usage: Tokens | None = None) -> bytes:
        shown = usage if self._include_usage else UNSET
        return b"data: " + _encode(self._reply(self.CHUNK, choices, shown)) + b"\n\n"

    def _reply(self, kind: str, choices: list[Choice], usage: Tokens | UnsetType | None) -> Reply:
        return Reply(self._id, kind, self._created, self._model, choices, usage)

    CHUNK = ""


class ChatShape(_Shape):
    """`/v1/chat/completions`."""

    CHUNK = "chat.completion.chunk"

    def opening(self, index: int) -> bytes:
        return self._frame([Choice(index, delta={"role": "assistant", "content": ""})])

    def piece(self, index: int, delta: Delta) -> bytes:
        frames = b""
        if delta.text or delta.logprobs:
            logprobs = _chat_logprobs(delta.logprobs) if self._logprobs else None
            frames = self._frame([Choice(index, delta={"content": delta.text}, logprobs=logprobs)])
        if delta.finish is not None:
            stop = delta.stop or UNSET
            last = Choice(index, delta={}, finish_reason=delta.finish, stop_reason=stop)
            frames += self._frame([last])
        return frames

    def whole(self, answers: Sequence[Answer], usage: Tokens) -> bytes:
        choices = [
            Choice(
                index,
                message={"role": "assistant", "content": answer.text, "refusal": None},
                logprobs=_chat_logprobs(answer.logprobs) if self._logprobs else None,
                finish_reason=answer.finish,
                stop_reason=answer.stop or UNSET,
            )
            for index, answer in enumerate(answers)
        ]
        return _encode(self._reply("chat.completion", choices, usage))


class TextShape(_Shape):
    """`/v1/completions`."""

    CHUNK = "text_completion"

    def __init__(
        self, reply_id: str, created: int, model: str, *, logprobs: bool, include_usage: bool
    ) -> None:
        super().__init__(reply_id, created, model, logprobs=logprobs, include_usage=include_usage)
        self._offsets: dict[int, int] = {}

    def opening(self, index: int) -> bytes:  # noqa: ARG002
        return b""

    def piece(self, index: int, delta: Delta) -> bytes:
        if not (delta.text or delta.logprobs or delta.finish):
            return b""
        logprobs = None
        if self._logprobs and delta.logprobs:
            at = self._offsets.get(index, 0)
            logprobs = _text_logprobs(delta.logprobs, at)
            self._offsets[index] = at + sum(len(token.text) for token in delta.logprobs)
        choice = Choice(index, text=delta.text, logprobs=logprobs, finish_reason=delta.finish)
        return self._frame([choice])

    def whole(self, answers: Sequence[Answer], usage: Tokens) -> bytes:
        choices = [
            Choice(
                index,
                text=answer.text,
                logprobs=_text_logprobs(answer.logprobs, 0) if self._logprobs else None,
                finish_reason=answer.finish,
            )
            for index, answer in enumerate(answers)
        ]
        return _encode(self._reply("text_completion", choices, usage))


def _chat_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    content = [
        {
            **_token(token.text, token.data, token.logprob),
            "top_logprobs": [_token(*alternative) for alternative in token.top],
        }
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _token(text: str, data: bytes, logprob: float) -> dict[str, Any]:
    return {"token": text, "logprob": max(logprob, _LEAST_LOGPROB), "bytes": list(data)}


def _text_logprobs(tokens: Sequence[TokenLogprob], start: int) -> dict[str, Any]:
    offsets: list[int] = []
    for token in tokens:
        offsets.append(start)
        start += len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [max(token.logprob, _LEAST_LOGPROB) for token in tokens],
        "top_logprobs": [
            {text: max(logprob, _LEAST_LOGPROB) for text, _, logprob in token.top}
            for token in tokens
        ],
        "text_offset": offsets,
    }
