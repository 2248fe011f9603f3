"""Chat templates: a model folder's Jinja template, rendered so that content cannot forge a turn.

Set up as transformers does it (sandboxed, `trim_blocks`, `lstrip_blocks`, loop controls,
`raise_exception`, `strftime_now`, `tojson`, special tokens as variables).
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from starloom.serve.errors import BadRequest
from starloom.serve.models import read_json

_TOKEN_NAMES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


class ChatTemplate:
    """One compiled template and the special tokens that it may name."""

    def __init__(self, source: str, variables: Mapping[str, Any]) -> None:
        self.source = source
        self._variables = dict(variables)
        self._template = _environment().from_string(source)

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The prompt's text up to the assistant's turn. Raises `BadRequest` on what it refuses."""
        try:
            return self._template.render(
                messages=messages, add_generation_prompt=True, tools=None, **self._variables
            )
        except (TemplateError, ArithmeticError, AttributeError, LookupError, TypeError) as error:
            what = f"the model's chat template refused the messages: {error}"
            raise BadRequest(what, param="messages") from error
        except ValueError as error:
            what = "the model's chat template could not use the messages"
            raise BadRequest(what, param="messages") from error


def load_template(folder: Path) -> ChatTemplate | None:
    """The folder's template, or None for a model without one."""
    config_file = folder / "tokenizer_config.json"
    config = read_json(config_file) if config_file.exists() else {}
    source = _source(folder, config)
    return None if source is None else ChatTemplate(source, _variables(folder, config))


def _source(folder: Path, config: dict[str, Any]) -> str | None:
    if (folder / "chat_template.jinja").exists():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if (folder / "chat_template.json").exists():
        config = read_json(folder / "chat_template.json")
    stated = config.get("chat_template")
    if isinstance(stated, list):  # several, by name
        stated = {entry["name"]: entry["template"] for entry in stated}.get("default")
    return stated if isinstance(stated, str) else None


def _variables(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    map_file = folder / "special_tokens_map.json"
    merged = {**(read_json(map_file) if map_file.exists() else {}), **config}
    found: dict[str, Any] = {}
    for name in _TOKEN_NAMES:
        token = merged.get(f"{name}_token")
        if isinstance(token, dict):
            token = token.get("content")
        if isinstance(token, str):
            found[f"{name}_token"] = token
    return found


class _Generation(Extension):
    """`{% generation %}` marks the assistant's text for training; here it only prints it."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now(UTC).astimezone().strftime(form)
