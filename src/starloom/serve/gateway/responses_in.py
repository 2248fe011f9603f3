"""Requests of OpenAI's Responses API as those of a chat.

What is not covered: tools that the server runs, background answers, conversations and prompts kept
by a server, references to items, files, and log probabilities.
"""

from collections.abc import Callable
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from starloom.serve.errors import BadRequest
from starloom.serve.gateway.api import Count, parse_as, parse_object

RESPONSES = "/v1/responses"
_Turns = list[dict[str, Any]]
_REFUSED = ("background", "conversation", "prompt", "max_tool_calls", "moderation")
_IGNORED = {
    *("context_management", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
    *("safety_identifier", "service_tier", "access_programs", "background_options", "image"),
}
_SAME = ("temperature", "top_p", "parallel_tool_calls", "user")
_ROLES = ("user", "assistant", "system", "developer")


class ResponsesBody(msgspec.Struct, kw_only=True):
    """Fields that are not named here go on to the model."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    max_output_tokens: Count | None = None
    previous_response_id: Annotated[str, Meta(max_length=256)] | None = None
    store: bool | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    include: list[str] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: dict[str, Any] | None = None
    reasoning: dict[str, Any] | None = None
    truncation: str | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None


_decoder = msgspec.json.Decoder(ResponsesBody)


def parse_responses(
    raw: bytes, earlier: Callable[[str], _Turns]
) -> tuple[ResponsesBody, dict[str, Any]]:
    """The request, and the chat that it is. Raises `BadRequest`.

    `earlier` gives the turns up to an earlier response.
    """
    body = parse_as(_decoder, raw)
    own = parse_object(raw)
    _check(body, own)
    known = {*ResponsesBody.__struct_fields__, *_REFUSED, *_IGNORED}
    chat = {key: value for key, value in own.items() if key not in known}
    before = [] if body.previous_response_id is None else earlier(body.previous_response_id)
    chat |= {"model": body.model, "messages": [*before, *_turns(body.input)]}
    if body.instructions:
        chat["messages"] = [{"role": "system", "content": body.instructions}, *chat["messages"]]
    for field in _SAME:
        if (value := getattr(body, field)) is not None:
            chat[field] = value
    if body.max_output_tokens is not None:
        chat["max_completion_tokens"] = body.max_output_tokens
    if body.tools:
        chat["tools"] = [_tool(tool, f"tools[{at}]") for at, tool in enumerate(body.tools)]
    if body.tool_choice is not None:
        chat["tool_choice"] = _choice(body.tool_choice)
    if (effort := (body.reasoning or {}).get("effort")) is not None:
        chat["reasoning_effort"] = effort
    chat |= _text(body.text or {})
    if body.stream:
        chat |= {"stream": True, "stream_options": {"include_usage": True}}
    return body, chat


def _check(body: ResponsesBody, own: dict[str, Any]) -> None:
    for field in _REFUSED:
        if own.get(field):
            raise BadRequest(f"{field}: not supported", param=field)
    if body.truncation not in (None, "disabled"):
        raise BadRequest("truncation: only `disabled` is supported", param="truncation")
    if body.top_logprobs or "message.output_text.logprobs" in (body.include or ()):
        what = "log probabilities are not supported here; use /v1/chat/completions"
        raise BadRequest(f"top_logprobs: {what}", param="top_logprobs")
    if not body.input:
        raise BadRequest("input: is empty", param="input")


def _turns(given: str | list[dict[str, Any]]) -> _Turns:
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    turns: _Turns = []
    for at, item in enumerate(given):
        place = f"input[{at}]"
        kind = item.get("type", "message")
        if kind == "message":
            turns.append(_message(item, place))
        elif kind == "function_call":
            _called(turns, item, place)
        elif kind == "function_call_output":
            output = item.get("output")
            content = output if isinstance(output, str) else _parts(output, f"{place}.output")
            call_id = _string(item, "call_id", place)
            turns.append({"role": "tool", "tool_call_id": call_id, "content": content})
        elif kind != "reasoning":  # what it thought is not shown to a model again
            what = f"{place}: items of type {kind!r} are not supported"
            raise BadRequest(what, param=place)
    return turns


def _message(item: dict[str, Any], place: str) -> dict[str, Any]:
    role = item.get("role")
    if role not in _ROLES:
        raise BadRequest(f"{place}.role: one of {', '.join(_ROLES)}", param=f"{place}.role")
    content = item.get("content")
    shown = content if isinstance(content, str) else _parts(content, f"{place}.content")
    return {"role": role, "content": shown}


def _called(turns: _Turns, item: dict[str, Any], place: str) -> None:
    """Calls in a row, and the text before them, are one turn."""
    function = {name: _string(item, name, place) for name in ("name", "arguments")}
    call = {"id": _string(item, "call_id", place), "type": "function", "function": function}
    if turns and turns[-1]["role"] == "assistant":
        turns[-1] = {**turns[-1], "tool_calls": [*turns[-1].get("tool_calls", ()), call]}
    else:
        turns.append({"role": "assistant", "content": None, "tool_calls": [call]})


def _parts(content: Any, place: str) -> str | list[dict[str, Any]]:
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise BadRequest(f"{place}: a string or a list of parts", param=place)
    parts = [_part(part, f"{place}[{at}]") for at, part in enumerate(content)]
    if all(part["type"] == "text" for part in parts):  # not all templates know parts
        return "\n".join(part["text"] for part in parts)
    return parts


def _part(part: dict[str, Any], place: str) -> dict[str, Any]:
    kind = part.get("type")
    if kind in ("input_text", "output_text", "text"):
        return {"type": "text", "text": _string(part, "text", place)}
    if kind == "refusal":
        return {"type": "text", "text": _string(part, "refusal", place)}
    if kind == "input_image" and part.get("file_id") is None:
        image = {"url": _string(part, "image_url", place)}
        if part.get("detail") is not None:
            image["detail"] = part["detail"]
        return {"type": "image_url", "image_url": image}
    raise BadRequest(f"{place}: parts of type {kind!r} are not supported", param=place)


def _tool(tool: dict[str, Any], place: str) -> dict[str, Any]:
    kind = tool.get("type")
    if kind != "function":
        what = f"{place}: {kind!r} is run by a server; only functions of yours are supported"
        raise BadRequest(what, param=place)
    fields = ("description", "parameters", "strict")
    function = {name: tool[name] for name in fields if tool.get(name) is not None}
    return {"type": "function", "function": {"name": _string(tool, "name", place), **function}}


def _choice(choice: str | dict[str, Any]) -> Any:
    if isinstance(choice, dict):
        if choice.get("type") != "function":
            what = "tool_choice: auto, none, required, or a function"
            raise BadRequest(what, param="tool_choice")
        return {"type": "function", "function": {"name": _string(choice, "name", "tool_choice")}}
    return choice


def _text(text: dict[str, Any]) -> dict[str, Any]:
    chat: dict[str, Any] = {}
    if text.get("verbosity") is not None:
        chat["verbosity"] = text["verbosity"]
    stated = text.get("format")
    if stated is None:
        return chat
    if not isinstance(stated, dict):
        raise BadRequest("text.format: an object is needed", param="text.format")
    if stated.get("type") == "json_schema":
        schema = {key: value for key, value in stated.items() if key != "type"}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif stated.get("type") != "text":
        chat["response_format"] = {"type": stated.get("type")}
    return chat


def _string(item: dict[str, Any], field: str, place: str) -> str:
    value = item.get(field)
    if not isinstance(value, str):
        raise BadRequest(f"{place}.{field}: a string is needed", param=f"{place}.{field}")
    return value
