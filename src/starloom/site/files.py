"""YAML files into nouns, with the line of every problem."""

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from starloom.site.errors import BadNames, Loc, Problem, SiteError

_M = TypeVar("_M", bound=BaseModel)
MAX_FILE_BYTES = 4 << 20


def load(noun: type[_M], path: Path) -> _M:
    """Read `path` as one `noun`, with `base` set to its folder. Raises `SiteError`."""
    document = Document.read(path)
    if "base" in document.data:
        document.refuse([(("base",), "unknown field", "remove it")])
    try:
        return noun.model_validate({**document.data, "base": path.resolve().parent})
    except ValidationError as error:
        document.refuse(explained(error, noun))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises `SiteError` when it is none."""
    return Document.read(path).data


class Document:
    """A YAML mapping that still knows on which line each of its values stands."""

    def __init__(self, path: Path, data: dict[str, Any], root: yaml.Node) -> None:
        self.path = path
        self.data = data
        self._root = root

    @classmethod
    def read(cls, path: Path, *, listed: str | None = None) -> "Document":
        """`listed`: a bare list in the file is taken for the value of this field."""

        def problem(line: int, what: str, fix: str) -> SiteError:
            return SiteError([Problem(str(path), line, "", what, fix)])

        try:
            size = path.stat().st_size
            if size > MAX_FILE_BYTES:
                raise problem(1, f"the file has {size} bytes", f"stay below {MAX_FILE_BYTES}")
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise problem(1, f"cannot be read: {error.strerror}", "check the path") from error
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise problem(line, "is not UTF-8", "save the file as UTF-8") from error
        try:
            root = yaml.compose(text, Loader=yaml.SafeLoader)
            data = yaml.safe_load(text)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark
            line = mark.line + 1 if mark else 1
            what = f"is not YAML: {error.problem or error.context}"
            raise problem(line, what, "check indentation, colons and quotes") from error
        if listed is not None and isinstance(root, yaml.SequenceNode):
            key = yaml.ScalarNode("tag:yaml.org,2002:str", listed, root.start_mark, root.start_mark)
            map_tag = "tag:yaml.org,2002:map"
            root = yaml.MappingNode(map_tag, [(key, root)], root.start_mark, root.end_mark)
            data = {listed: data}
        if root is None or not isinstance(data, dict):
            raise problem(1, "holds no mapping", "begin with `name: my-site`")
        document = cls(path, data, root)
        twice = list(_double_keys(root, ()))
        if twice:
            document.refuse(twice)
        return document

    def line(self, loc: Loc) -> int:
        """The line of the value at `loc`, or of the nearest part of its path that exists."""
        node = self._root
        line = node.start_mark.line
        for step in loc:
            found = _child(node, step)
            if found is None:
                break
            line, node = found
        return line + 1

    def refuse(self, found: list[tuple[Loc, str, str]]) -> NoReturn:
        raise SiteError(
            [
                Problem(str(self.path), self.line(loc), _dotted(loc), what, fix)
                for loc, what, fix in found
            ]
        )


def _child(node: yaml.Node, step: str | int) -> tuple[int, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in reversed(node.value):  # of double keys YAML takes the last
            if key.value == str(step):
                return key.start_mark.line, value
    elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        value = node.value[step]
        return value.start_mark.line, value
    return None


def _double_keys(node: yaml.Node, loc: Loc) -> Iterator[tuple[Loc, str, str]]:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                yield (*loc, key.value), "stands twice in this mapping", "keep one of them"
            seen.add(key.value)
            yield from _double_keys(value, (*loc, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _double_keys(value, (*loc, index))


def _dotted(loc: Loc) -> str:
    text = ""
    for step in loc:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def explained(error: ValidationError, noun: type[BaseModel]) -> list[tuple[Loc, str, str]]:
    """What pydantic found, as places, problems and fixes."""
    found: list[tuple[Loc, str, str]] = []
    for detail in error.errors(include_url=False):
        cause = detail.get("ctx", {}).get("error")
        loc = tuple(detail["loc"])
        if isinstance(cause, BadNames):
            found += cause.problems
        elif isinstance(cause, ValueError):
            found.append((_without_tag(loc), str(cause), "change or remove it"))
        else:
            found.append((_without_tag(loc), *_told(detail, noun)))
    return found


_TAGS = ("embedded", "emulated", "openai")


def _without_tag(loc: Loc) -> Loc:
    """A union's tag is a part of pydantic's path: workers, 0, embedded, threads."""
    return tuple(step for at, step in enumerate(loc) if not (at == 2 and step in _TAGS))


def _told(detail: Any, noun: type[BaseModel]) -> tuple[str, str]:
    kind, given = detail["type"], detail["input"]
    name = detail["loc"][-1] if detail["loc"] else ""
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(name), sorted(_field_names(noun)), n=1)
        return "unknown field", f"did you mean `{near[0]}`?" if near else "remove it"
    if kind == "missing":
        return "is missing", f"add `{name}: ...`"
    if kind.startswith("union_tag"):
        return "the worker's `engine` is unknown", f"set `engine` to one of: {', '.join(_TAGS)}"
    shown = repr(given)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    message = detail["msg"][0].lower() + detail["msg"][1:]
    return f"{shown} does not do: {message}", "change the value"


def _field_names(noun: type[BaseModel]) -> set[str]:
    """Field names of `noun` and of every noun in it."""
    names: set[str] = set()
    pending: list[Any] = [noun]
    seen: set[Any] = set()
    while pending:
        kind = pending.pop()
        if kind in seen:
            continue
        seen.add(kind)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            names |= set(kind.model_fields)
            pending += [field.annotation for field in kind.model_fields.values()]
        pending += getattr(kind, "__args__", ())
    return names
