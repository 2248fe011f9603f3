"""The gateway's OpenAPI document: schemas of what is decoded, and the paths that take it.

What servers elsewhere answer passes as it is, so that answers are described by what all have.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from starloom.serve.gateway import adminapi, elsewhere
from starloom.serve.gateway.api import Asked, ChatBody, TextBody
from starloom.serve.gateway.line import CHAT, TEXT
from starloom.serve.gateway.messages_in import COUNT_TOKENS, MESSAGES, CountBody, MessagesBody
from starloom.serve.gateway.responses_in import RESPONSES, ResponsesBody
from starloom.serve.gateway.shapes import Reply
from starloom.serve.gateway.tokens import (
    DETOKENIZE,
    TOKENIZE,
    DetokenizeAnswer,
    DetokenizeBody,
    TokenizeAnswer,
    TokenizeBody,
)

_VERSION = "3.1.0"
_JSON = "application/json"
_EVENTS = "text/event-stream"
_ANYTHING: dict[str, Any] = {"type": "object"}


class ErrorFields(msgspec.Struct):
    message: str
    type: str
    param: str | None
    code: str


class ErrorAnswer(msgspec.Struct):
    """OpenAI's shape of an error."""

    error: ErrorFields


class AnthropicErrorFields(msgspec.Struct):
    type: str
    message: str


class AnthropicError(msgspec.Struct):
    """Anthropic's shape of an error."""

    type: str
    error: AnthropicErrorFields


class AnthropicUsage(msgspec.Struct):
    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int


class AnthropicMessage(msgspec.Struct):
    id: str
    type: str
    role: str
    model: str
    content: list[dict[str, Any]]
    stop_reason: str | None
    stop_sequence: str | None
    usage: AnthropicUsage


class CountAnswer(msgspec.Struct):
    input_tokens: int


class ResponseAnswer(msgspec.Struct):
    id: str
    object: str
    created_at: int
    status: str
    model: str
    output: list[dict[str, Any]]


class _Post(NamedTuple):
    path: str
    what: str
    body: type
    answer: type | None
    streams: bool = False
    error: type = ErrorAnswer


_POSTS = (
    _Post(CHAT, "The next message of a chat", ChatBody, Reply, streams=True),
    _Post(TEXT, "The continuation of prompts", TextBody, Reply, streams=True),
    _Post(
        MESSAGES,
        "The next message of a chat, in Anthropic's shape",
        MessagesBody,
        AnthropicMessage,
        streams=True,
        error=AnthropicError,
    ),
    _Post(
        COUNT_TOKENS,
        "Tokens of a request to `/v1/messages`",
        CountBody,
        CountAnswer,
        error=AnthropicError,
    ),
    _Post(
        RESPONSES,
        "An answer, in the shape of the Responses API",
        ResponsesBody,
        ResponseAnswer,
        streams=True,
    ),
    _Post(TOKENIZE, "Tokens of a prompt or a chat", TokenizeBody, TokenizeAnswer),
    _Post(DETOKENIZE, "The text of tokens", DetokenizeBody, DetokenizeAnswer),
    *(
        _Post(path, f"{what.capitalize()} of a server elsewhere", Asked, None)
        for path, what in elsewhere.PATHS.items()
    ),
)
_FAILURES = {
    400: "The request is wrong, or the site's guard refused it",
    401: "No key, or an unknown one",
    403: "The Host or Origin header is not allowed",
    404: "There is no such model",
    408: "The body did not arrive in time",
    413: "The body is too large",
    415: "The body is not JSON",
    429: "Too many requests or tokens; `retry-after` says when to come back",
    500: "The gateway failed",
    502: "A worker failed while it answered",
    503: "No worker could take the request",
    504: "The time limit ran out",
}
_GET_FAILURES = (401, 403, 404, 429)
_GETS = {
    "/health": ("Whether the gateway's process is alive", _JSON, (200, 403)),
    "/ready": ("Whether every model has a worker", _JSON, (200, 403, 503)),
    "/metrics": ("Counters for Prometheus", "text/plain", (200, *_GET_FAILURES)),
    "/openapi.json": ("This document", _JSON, (200, *_GET_FAILURES)),
    "/v1/models": ("The site's models", _JSON, (200, *_GET_FAILURES)),
    "/v1/models/{id}": ("One model", _JSON, (200, *_GET_FAILURES)),
}
_OPEN = ("/health", "/ready")
_KEYS: list[dict[str, list[str]]] = [{"bearer": []}, {"key": []}]


def document(models: Sequence[str], *, open_metrics: bool, admin: bool = False) -> dict[str, Any]:
    """The document of a gateway that serves these models; `admin`: with the admin API."""
    bodies = {post.body for post in _POSTS}
    answers = {post.answer for post in _POSTS if post.answer is not None}
    types = sorted({*bodies, *answers, ErrorAnswer, AnthropicError}, key=lambda one: one.__name__)
    _, schemas = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    for body in bodies:
        schemas[body.__name__]["properties"]["model"] |= _named(schemas, body, models)
    open_paths = (*_OPEN, *(("/metrics",) if open_metrics else ()))
    paths: dict[str, Any] = {post.path: {"post": _post(post)} for post in _POSTS}
    for path, (what, kind, statuses) in _GETS.items():
        paths[path] = {"get": _get(path, what, kind, statuses, open_paths, models)}
    security: dict[str, Any] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    if admin:
        admin_paths, more = adminapi.described()
        paths |= admin_paths
        schemas |= more
        security["admin"] = {"type": "http", "scheme": "bearer", "description": "The admin key"}
    return {
        "openapi": _VERSION,
        "info": {"title": "starloom gateway", "version": "1"},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": security},
    }


def _named(schemas: dict[str, Any], body: type, models: Sequence[str]) -> dict[str, Any]:
    """The models that a body may name, as the site has them."""
    stated = schemas[body.__name__]["properties"]["model"]
    optional = any(kind.get("type") == "null" for kind in stated.get("anyOf", ()))
    return {"enum": [*models, None] if optional else [*models]}


def _post(post: _Post) -> dict[str, Any]:
    schema = _ANYTHING if post.answer is None else _ref(post.answer)
    content: dict[str, Any] = {_JSON: {"schema": schema}}
    if post.streams:
        content[_EVENTS] = {}
    responses: dict[str, Any] = {"200": {"description": "The answer", "content": content}}
    responses |= {str(status): _failure(status, post.error) for status in _FAILURES}
    return {
        "summary": post.what,
        "operationId": _operation("post", post.path),
        "security": _KEYS,
        "requestBody": {"required": True, "content": {_JSON: {"schema": _ref(post.body)}}},
        "responses": responses,
    }


def _get(
    path: str,
    what: str,
    kind: str,
    statuses: Sequence[int],
    open_paths: Sequence[str],
    models: Sequence[str],
) -> dict[str, Any]:
    schema = _ANYTHING if kind == _JSON else {"type": "string"}
    answer = {"content": {kind: {"schema": schema}}}
    responses: dict[str, Any] = {"200": {"description": what, **answer}}
    for status in statuses[1:]:
        if path in _OPEN and status == 503:
            responses["503"] = {"description": "A model has none", **answer}
        else:
            responses[str(status)] = _failure(status, ErrorAnswer)
    get = {
        "summary": what,
        "operationId": _operation("get", path),
        "security": [] if path in open_paths else _KEYS,
        "responses": responses,
    }
    if "{id}" in path:
        named = {"type": "string", "enum": [*models]}
        get["parameters"] = [{"name": "id", "in": "path", "required": True, "schema": named}]
    return get


def _failure(status: int, error: type) -> dict[str, Any]:
    content = {_JSON: {"schema": _ref(error)}}
    return {"description": _FAILURES[status], "content": content}


def _ref(of: type) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{of.__name__}"}


def _operation(method: str, path: str) -> str:
    words = path.replace("/v1/", "/").replace(".", "/").replace("{", "").replace("}", "")
    return "_".join([method, *filter(None, words.split("/"))])
