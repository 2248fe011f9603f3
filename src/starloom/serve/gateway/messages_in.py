"""Requests of Anthropic's Messages API as those of a chat.

What is not covered: the beginning of an answer given as the last message, tools that the server
runs, documents other than plain text, citations, budgets of thinking; `cache_control` is taken and
ignored, since prefixes are reused without being asked.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from starloom.serve.errors import BadRequest
from starloom.serve.gateway.api import Count, StopText, parse_as, parse_object

MESSAGES = "/v1/messages"
COUNT_TOKENS = "/v1/messages/count_tokens"
_Parts = list[dict[str, Any]]
_IGNORED = {
    *("cache_control", "container", "diagnostics", "inference_geo", "mcp_servers", "metadata"),
    *("service_tier", "speed", "user_profile_id", "workspace_id"),
}
_ELSEWHERE = ("container", "mcp_servers")
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


class Turn(msgspec.Struct):
    role: Literal["user", "assistant", "system"]
    content: str | list[dict[str, Any]]


class Tool(msgspec.Struct):
    name: Annotated[str, Meta(min_length=1, max_length=128)]
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None


class Thinking(msgspec.Struct):
    type: str


class CountBody(msgspec.Struct, kw_only=True):
    """What `count_tokens` takes; fields that are not named here go on to the model."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    messages: Annotated[list[Turn], Meta(min_length=1, max_length=65536)]
    system: str | list[dict[str, Any]] | None = None
    tools: list[Tool] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: Thinking | None = None
    output_config: dict[str, Any] | None = None


class MessagesBody(CountBody, kw_only=True):
    max_tokens: Count
    stop_sequences: Annotated[list[StopText], Meta(max_length=16)] | None = None
    stream: bool | None = None
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None


_messages = msgspec.json.Decoder(MessagesBody)
_count = msgspec.json.Decoder(CountBody)


def parse_messages(raw: bytes) -> tuple[MessagesBody, dict[str, Any]]:
    """The request, and the chat that it is. Raises `BadRequest`."""
    body = parse_as(_messages, raw)
    chat = {**_common(body, raw), "max_tokens": body.max_tokens}
    for field in ("temperature", "top_k", "top_p"):
        if (value := getattr(body, field)) is not None:
            chat[field] = value
    if body.stop_sequences:
        chat["stop"] = body.stop_sequences
    if body.stream:
        chat |= {"stream": True, "stream_options": {"include_usage": True}}
    return body, chat


def parse_count(raw: bytes) -> dict[str, Any]:
    """The chat whose tokens are asked for. Raises `BadRequest`."""
    return _common(parse_as(_count, raw), raw)


def _common(body: CountBody, raw: bytes) -> dict[str, Any]:
    own = parse_object(raw)
    for field in _ELSEWHERE:
        if own.get(field):
            raise BadRequest(f"{field}: not supported", param=field)
    known = {*MessagesBody.__struct_fields__, *_IGNORED}
    chat = {key: value for key, value in own.items() if key not in known}
    chat |= {"model": body.model, "messages": _turns(body)}
    if body.tools:
        chat["tools"] = [_tool(tool, at) for at, tool in enumerate(body.tools)]
    if body.tool_choice is not None:
        chat |= _choice(body.tool_choice)
    chat |= _output(body.output_config or {})
    metadata = own.get("metadata")
    if isinstance(metadata, dict) and isinstance(metadata.get("user_id"), str):
        chat["user"] = metadata["user_id"]
    return chat


def _turns(body: CountBody) -> _Parts:
    turns: _Parts = []
    if body.system:
        where = "system"
        parts = body.system if isinstance(body.system, list) else [_text_part(body.system)]
        texts = [_text(part, f"{where}[{at}]") for at, part in enumerate(parts)]
        turns.append({"role": "system", "content": "\n".join(texts)})
    for at, turn in enumerate(body.messages):
        blocks = [_text_part(turn.content)] if isinstance(turn.content, str) else turn.content
        where = f"messages[{at}].content"
        turns += _said(blocks, where) if turn.role == "assistant" else _heard(turn, blocks, where)
    if body.messages[-1].role == "assistant":
        what = "messages: an answer's beginning cannot be given; let the last message be the user's"
        raise BadRequest(what, param="messages")
    return turns


def _said(blocks: _Parts, where: str) -> _Parts:
    """An assistant's turn: text, and calls of tools. What it thought is not shown to it again."""
    texts: list[str] = []
    calls: _Parts = []
    for at, block in enumerate(blocks):
        kind, place = block.get("type"), f"{where}[{at}]"
        if kind == "text":
            texts.append(_text(block, place))
        elif kind == "tool_use":
            given = block.get("input")
            function = {
                "name": _string(block, "name", place),
                "arguments": msgspec.json.encode({} if given is None else given).decode(),
            }
            call_id = _string(block, "id", place)
            calls.append({"id": call_id, "type": "function", "function": function})
        elif kind not in ("thinking", "redacted_thinking"):
            raise _unknown(kind, place)
    turn: dict[str, Any] = {"role": "assistant", "content": "\n".join(texts) if texts else None}
    if calls:
        turn["tool_calls"] = calls
    return [turn]


def _heard(turn: Turn, blocks: _Parts, where: str) -> _Parts:
    """A user's turn: results of tools are turns of their own in a chat."""
    turns: _Parts = []
    parts: _Parts = []
    for at, block in enumerate(blocks):
        place = f"{where}[{at}]"
        if block.get("type") == "tool_result":
            if parts:
                turns.append({"role": turn.role, "content": _content(parts)})
                parts = []
            call_id = _string(block, "tool_use_id", place)
            result = {"role": "tool", "tool_call_id": call_id, "content": _result(block, place)}
            turns.append(result)
        else:
            parts.append(_part(block, place))
    if parts or not turns:
        turns.append({"role": turn.role, "content": _content(parts)})
    return turns


def _result(block: dict[str, Any], place: str) -> str | _Parts:
    content = block.get("content")
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise BadRequest(f"{place}.content: a string or a list of blocks", param=place)
    return _content([_part(part, f"{place}.content[{at}]") for at, part in enumerate(content)])


def _part(block: dict[str, Any], place: str) -> dict[str, Any]:
    kind = block.get("type")
    if kind == "text":
        return _text_part(_text(block, place))
    source = block.get("source")
    source = source if isinstance(source, dict) else {}
    stated = source.get("type")
    if kind == "image" and stated == "base64":
        data = f"{_string(source, 'media_type', place)};base64,{_string(source, 'data', place)}"
        return {"type": "image_url", "image_url": {"url": f"data:{data}"}}
    if kind == "image" and stated == "url":
        return {"type": "image_url", "image_url": {"url": _string(source, "url", place)}}
    if kind == "document" and stated == "text":
        return _text_part(_string(source, "data", place))
    raise _unknown(f"{kind} from {stated}" if kind in ("image", "document") else kind, place)


def _content(parts: _Parts) -> str | _Parts:
    """Text alone as a string: not all templates know parts."""
    if all(part["type"] == "text" for part in parts):
        return "\n".join(part["text"] for part in parts)
    return parts


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _text(block: dict[str, Any], place: str) -> str:
    if block.get("type", "text") != "text":
        raise _unknown(block.get("type"), place)
    return _string(block, "text", place)


def _string(block: dict[str, Any], field: str, place: str) -> str:
    value = block.get(field)
    if not isinstance(value, str):
        raise BadRequest(f"{place}.{field}: a string is needed", param=f"{place}.{field}")
    return value


def _unknown(kind: Any, place: str) -> BadRequest:
    return BadRequest(f"{place}: blocks of type {kind!r} are not supported", param=place)


def _tool(tool: Tool, at: int) -> dict[str, Any]:
    if tool.type not in (None, "custom"):
        what = f"tools[{at}]: {tool.type!r} is run by a server; only tools of yours are supported"
        raise BadRequest(what, param=f"tools[{at}]")
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.input_schema or {}}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _choice(choice: dict[str, Any]) -> dict[str, Any]:
    kind = choice.get("type")
    chosen: Any = _CHOICES.get(kind) if isinstance(kind, str) else None
    if kind == "tool":
        name = _string(choice, "name", "tool_choice")
        chosen = {"type": "function", "function": {"name": name}}
    if chosen is None:
        raise BadRequest(f"tool_choice: {kind!r} is not known", param="tool_choice")
    alone = {"parallel_tool_calls": False} if choice.get("disable_parallel_tool_use") else {}
    return {"tool_choice": chosen, **alone}


def _output(config: dict[str, Any]) -> dict[str, Any]:
    chat: dict[str, Any] = {}
    if config.get("effort") is not None:
        chat["reasoning_effort"] = config["effort"]
    stated = config.get("format")
    if stated is not None:
        if not isinstance(stated, dict) or stated.get("type") != "json_schema":
            what = "output_config.format: only json_schema is supported"
            raise BadRequest(what, param="output_config.format")
        schema = {"name": "answer", "schema": stated.get("schema"), "strict": True}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    return chat
