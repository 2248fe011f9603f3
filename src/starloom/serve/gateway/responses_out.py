"""Answers of a chat as those of OpenAI's Responses API, whole or as events."""

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from starloom.serve.errors import ServeError
from starloom.serve.gateway.blocks import Block, Blocks, Step
from starloom.serve.gateway.responses_in import ResponsesBody
from starloom.serve.gateway.translate import event

_DETAILS = {"length": "max_output_tokens", "content_filter": "content_filter"}
_ITEMS = {"text": "msg", "reasoning": "rs", "call": "fc"}
_STREAMS = {
    "text": ("response.output_text", "text"),
    "reasoning": ("response.reasoning_text", "text"),
    "call": ("response.function_call_arguments", "arguments"),
}


class ResponseAnswer:
    """A `translate.Translation`. `keep` is given the model's turn once it is whole."""

    def __init__(
        self, unique: str, at: float, body: ResponsesBody, keep: Callable[[dict[str, Any]], None]
    ) -> None:
        self.id = f"resp_{unique}"
        self._unique = unique
        self._at = int(at)
        self._body = body
        self._keep = keep
        self._blocks = Blocks()
        self._number = 0

    def whole(self, answer: dict[str, Any]) -> bytes:
        self._blocks.take(answer)
        self._keep(_turn(self._blocks.all))
        return msgspec.json.encode(self._ended())

    def opening(self) -> bytes:
        response = self._response("in_progress", [])
        created = self._event("response.created", response=response)
        return created + self._event("response.in_progress", response=response)

    def chunk(self, chunk: dict[str, Any]) -> bytes:
        return self._events(self._blocks.take(chunk))

    def closing(self) -> bytes:
        last = self._events(self._blocks.end())
        self._keep(_turn(self._blocks.all))
        response = self._ended()
        return last + self._event(f"response.{response['status']}", response=response)

    def broken(self, error: ServeError) -> bytes:
        failed = self._response("failed", [self._item(block) for block in self._blocks.all])
        kind = "rate_limit_exceeded" if error.status == 429 else "server_error"
        failed["error"] = {"code": kind, "message": error.message}
        return self._event("response.failed", response=failed)

    def _events(self, steps: Iterable[Step]) -> bytes:
        does = {"open": self._opened, "more": self._more, "close": self._closed}
        return b"".join([does[step.what](step) for step in steps])

    def _opened(self, step: Step) -> bytes:
        block = step.block
        item = self._item(block, "in_progress", empty=True)
        added = self._event("response.output_item.added", output_index=block.index, item=item)
        if block.kind == "call":
            return added
        return added + self._event(
            "response.content_part.added", **self._at_part(step), part=_part(block.kind, "")
        )

    def _more(self, step: Step) -> bytes:
        name, _ = _STREAMS[step.block.kind]
        more: dict[str, Any] = {"logprobs": []} if step.block.kind == "text" else {}
        return self._event(f"{name}.delta", **self._at_part(step), delta=step.text, **more)

    def _closed(self, step: Step) -> bytes:
        block = step.block
        name, field = _STREAMS[block.kind]
        more: dict[str, Any] = {field: block.text}
        if block.kind == "text":
            more["logprobs"] = []
        if block.kind == "call":
            more["name"] = block.name
        done = self._event(f"{name}.done", **self._at_part(step), **more)
        if block.kind != "call":
            part = _part(block.kind, block.text)
            done += self._event("response.content_part.done", **self._at_part(step), part=part)
        item = self._item(block)
        return done + self._event("response.output_item.done", output_index=block.index, item=item)

    def _at_part(self, step: Step) -> dict[str, Any]:
        block = step.block
        place = {"item_id": self._item_id(block), "output_index": block.index}
        return place if block.kind == "call" else {**place, "content_index": 0}

    def _event(self, kind: str, **fields: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return event({"type": kind, "sequence_number": number, **fields})

    def _item_id(self, block: Block) -> str:
        return f"{_ITEMS[block.kind]}_{self._unique}_{block.index}"

    def _item(self, block: Block, status: str = "", *, empty: bool = False) -> dict[str, Any]:
        status = status or ("completed" if self._blocks.whole else "incomplete")
        item: dict[str, Any] = {"id": self._item_id(block), "status": status}
        text = "" if empty else block.text
        if block.kind == "call":
            call = {"type": "function_call", "call_id": block.id, "name": block.name}
            return {**item, **call, "arguments": text}
        content = [] if empty else [_part(block.kind, text)]
        if block.kind == "reasoning":
            return {**item, "type": "reasoning", "summary": [], "content": content}
        return {**item, "type": "message", "role": "assistant", "content": content}

    def _ended(self) -> dict[str, Any]:
        blocks = self._blocks
        status = "completed" if blocks.whole else "incomplete"
        response = self._response(status, [self._item(block) for block in blocks.all])
        if not blocks.whole:
            response["incomplete_details"] = {"reason": _DETAILS[blocks.finish or ""]}
        usage = blocks.usage
        response["usage"] = {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        }
        return response

    def _response(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        body = self._body
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._at,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": body.model,
            "output": output,
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "reasoning": {"effort": None, "summary": None, **(body.reasoning or {})},
            "store": body.store is not False,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "text": {"format": {"type": "text"}, **(body.text or {})},
            "tool_choice": body.tool_choice or "auto",
            "tools": body.tools or [],
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": body.user,
        }


def _part(kind: str, text: str) -> dict[str, Any]:
    if kind == "reasoning":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _turn(blocks: Iterable[Block]) -> dict[str, Any]:
    """What the model said, as a turn of a chat."""
    texts = [block.text for block in blocks if block.kind == "text"]
    turn: dict[str, Any] = {"role": "assistant", "content": "".join(texts) or None}
    calls = [
        {
            "id": block.id,
            "type": "function",
            "function": {"name": block.name, "arguments": block.text},
        }
        for block in blocks
        if block.kind == "call"
    ]
    return {**turn, "tool_calls": calls} if calls else turn
