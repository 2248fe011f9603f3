"""Answers of a chat as those of Anthropic's Messages API, whole or as events.

How many tokens a prompt has is known at the end of a stream: `message_start` says 0,
`message_delta` says all.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from starloom.serve.errors import ServeError
from starloom.serve.gateway.blocks import Block, Blocks, Step
from starloom.serve.gateway.messages_in import MessagesBody
from starloom.serve.gateway.translate import event

_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class MessageAnswer:
    """A `translate.Translation`: Anthropic's message, whole or as events."""

    def __init__(self, message_id: str, body: MessagesBody) -> None:
        self._id = message_id
        self._model = body.model
        self._stops = frozenset(body.stop_sequences or ())
        self._thinks = body.thinking is not None and body.thinking.type != "disabled"
        self._blocks = Blocks()
        self._indexes: dict[int, int] = {}

    def whole(self, answer: dict[str, Any]) -> bytes:
        blocks = self._blocks
        blocks.take(answer)
        content = [_block(block, whole=blocks.whole) for block in self._shown(blocks.all)]
        return msgspec.json.encode(self._message(content, *self._ended(), self._usage()))

    def opening(self) -> bytes:
        usage = {**self._usage(), "output_tokens": 0}
        message = self._message([], None, None, usage)
        return event({"type": "message_start", "message": message}) + event({"type": "ping"})

    def chunk(self, chunk: dict[str, Any]) -> bytes:
        return self._events(self._blocks.take(chunk))

    def closing(self) -> bytes:
        last = self._events(self._blocks.end())
        reason, stop = self._ended()
        delta = {"stop_reason": reason, "stop_sequence": stop}
        last += event({"type": "message_delta", "delta": delta, "usage": self._usage()})
        return last + event({"type": "message_stop"})

    def broken(self, error: ServeError) -> bytes:
        return event(told(error))

    def _events(self, steps: Iterable[Step]) -> bytes:
        out = []
        for step in steps:
            if not self._shown([step.block]):
                continue
            index = self._indexes.setdefault(step.block.index, len(self._indexes))
            fields: dict[str, Any] = {"type": f"content_block_{_EVENTS[step.what]}", "index": index}
            if step.what == "open":
                fields["content_block"] = _opened(step.block)
            elif step.what == "more":
                kind, field = _DELTAS[step.block.kind]
                fields["delta"] = {"type": kind, field: step.text}
            out.append(event(fields))
        return b"".join(out)

    def _shown(self, blocks: Sequence[Block]) -> list[Block]:
        return [block for block in blocks if self._thinks or block.kind != "reasoning"]

    def _ended(self) -> tuple[str, str | None]:
        blocks = self._blocks
        if blocks.finish == "stop" and blocks.stop in self._stops:
            return "stop_sequence", blocks.stop
        if blocks.finish == "stop" and any(block.kind == "call" for block in blocks.all):
            return "tool_use", None  # as some servers end an answer whose call was demanded
        return _REASONS.get(blocks.finish or "stop", "end_turn"), None

    def _usage(self) -> dict[str, int]:
        usage = self._blocks.usage
        return {
            "input_tokens": usage.prompt_tokens - usage.cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": usage.cached_tokens,
            "output_tokens": usage.completion_tokens,
        }

    def _message(
        self,
        content: list[dict[str, Any]],
        reason: str | None,
        stop: str | None,
        usage: dict[str, int],
    ) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": stop,
            "usage": usage,
        }


_EVENTS = {"open": "start", "more": "delta", "close": "stop"}
_DELTAS = {
    "text": ("text_delta", "text"),
    "reasoning": ("thinking_delta", "thinking"),
    "call": ("input_json_delta", "partial_json"),
}


def _opened(block: Block) -> dict[str, Any]:
    if block.kind == "call":
        return {"type": "tool_use", "id": block.id, "name": block.name, "input": {}}
    if block.kind == "reasoning":
        return {"type": "thinking", "thinking": "", "signature": ""}
    return {"type": "text", "text": ""}


def _block(block: Block, *, whole: bool) -> dict[str, Any]:
    if block.kind == "call":
        return {**_opened(block), "input": block.arguments(whole=whole)}
    return {**_opened(block), "thinking" if block.kind == "reasoning" else "text": block.text}


def told(error: ServeError) -> dict[str, Any]:
    """An error in Anthropic's shape."""
    usual = "invalid_request_error" if error.status < 500 else "api_error"
    kind = _ERRORS.get(error.status, usual)
    return {"type": "error", "error": {"type": kind, "message": error.message}}


def error_body(error: ServeError) -> bytes:
    """The same, as a body."""
    return msgspec.json.encode(told(error))
