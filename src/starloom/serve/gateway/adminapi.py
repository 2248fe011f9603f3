"""The admin API's part of the OpenAPI document. A worker is described as a site file has it."""

from typing import Any

import msgspec

from starloom.serve.gateway.admin import WORKERS, WorkerList
from starloom.serve.gateway.membership import WorkerState
from starloom.site import OpenAIWorker

_JSON = "application/json"
_REF = "#/components/schemas/{}"
_FAILURES = {
    400: "The worker is wrong, or cannot be one of this site",
    401: "No admin key, or an unknown one",
    403: "The Host or Origin header is not allowed",
    404: "There is no such worker",
    408: "The body did not arrive in time",
    409: "The name is taken, or the worker cannot be changed here",
    413: "The body is too large",
    415: "The body is not JSON",
    429: "Too many wrong keys; `retry-after` says when to come back",
}
_ALWAYS = (401, 403, 429)
_NAME = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
_DRAIN_S = {
    "name": "drain_s",
    "in": "query",
    "description": "Seconds that it may take to finish; then what it has is broken off",
    "schema": {"type": "number", "minimum": 0, "maximum": 86_400},
}


def described() -> tuple[dict[str, Any], dict[str, Any]]:
    """Paths, and the schemas that they name beside those of the rest."""
    one = f"{WORKERS}/{{name}}"
    paths = {
        WORKERS: {
            "get": _operation("list", "Workers as this gateway sees them", 200, "WorkerList"),
            "post": {
                **_operation(
                    "add", "Let a worker join", 201, "WorkerState", 400, 408, 409, 413, 415
                ),
                "requestBody": {"required": True, "content": _content("OpenAIWorker")},
            },
        },
        one: {
            "parameters": [_NAME],
            "get": _operation("get", "One worker", 200, "WorkerState", 404),
            "delete": {
                **_operation(
                    "remove", "Drain it, then let it go", 202, "WorkerState", 400, 404, 409
                ),
                "parameters": [_DRAIN_S],
            },
        },
    }
    for action, what in (("drain", "Send it nothing new"), ("undrain", "Send it requests again")):
        paths[f"{one}/{action}"] = {
            "parameters": [_NAME],
            "post": _operation(action, what, 200, "WorkerState", 404, 408, 409, 413),
        }
    _, schemas = msgspec.json.schema_components(
        [WorkerList, WorkerState], ref_template=_REF.format("{name}")
    )
    noun = OpenAIWorker.model_json_schema(ref_template=_REF.format("{model}"))
    inner = noun.pop("$defs", {})
    noun["required"] = [field for field in noun["required"] if field != "engine"]
    return paths, {**schemas, **inner, "OpenAIWorker": noun}


def _operation(name: str, what: str, status: int, gives: str, *failures: int) -> dict[str, Any]:
    responses: dict[str, Any] = {str(status): {"description": what, "content": _content(gives)}}
    for code in sorted({*_ALWAYS, *failures}):
        responses[str(code)] = {
            "description": _FAILURES[code],
            "content": _content("ErrorAnswer"),
        }
    return {
        "summary": what,
        "operationId": f"admin_{name}_worker",
        "security": [{"admin": []}],
        "responses": responses,
    }


def _content(schema: str) -> dict[str, Any]:
    return {_JSON: {"schema": {"$ref": _REF.format(schema)}}}
