"""From a tool's JSON to notes: every scalar, with the bytes that it stands in."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]

from starloom.agents.facts.base import Note, Source

_SPACE = re.compile(r"[ \t\n\r]*")
_SCALAR = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|true|false|null")
MAX_DEPTH = 64

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Leaf:
    """One scalar. `start`, `end`: characters of the text that it spans, quotes left out."""

    path: Path
    value: str
    start: int
    end: int

    @property
    def key(self) -> str:
        """The nearest name above it."""
        return next((it for it in reversed(self.path) if isinstance(it, str)), "value")

    @property
    def record(self) -> Path:
        """The innermost list element that it is part of; () for what is in none."""
        at = max((i for i, it in enumerate(self.path) if isinstance(it, int)), default=-1)
        return self.path[: at + 1]

    @property
    def pattern(self) -> str:
        """Where such values stand: list places, dates and long numbers left open."""
        joined = ".".join("*" if isinstance(it, int) else it for it in self.path)
        return re.sub(r"\d{4}-\d\d-\d\d|\d{3,}", "#", joined)


def leaves(text: str) -> list[Leaf] | None:
    """All scalars in order, or None where the text is not JSON (or is nested too deep)."""
    found: list[Leaf] = []
    try:
        end = _value(text, _skip(text, 0), (), found)
    except (ValueError, IndexError):
        return None
    return found if _skip(text, end) == len(text) else None


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _value(text: str, at: int, path: Path, found: list[Leaf]) -> int:
    if len(path) > MAX_DEPTH:
        raise ValueError("nested too deep")
    head = text[at]
    if head == "{":
        return _members(text, at, path, found)
    if head == "[":
        at = _skip(text, at + 1)
        place = 0
        while text[at] != "]":
            at = _skip(text, _value(text, at, (*path, place), found))
            place += 1
            at = _next(text, at, "]")
        return at + 1
    if head == '"':
        value, end = scanstring(text, at + 1)
        found.append(Leaf(path, value, at + 1, end - 1))
        return int(end)
    match = _SCALAR.match(text, at)
    if match is None:
        raise ValueError(f"no JSON at character {at}")
    if match[0] != "null":
        found.append(Leaf(path, match[0], at, match.end()))
    return match.end()


def _members(text: str, at: int, path: Path, found: list[Leaf]) -> int:
    at = _skip(text, at + 1)
    while text[at] != "}":
        if text[at] != '"':
            raise ValueError(f"no name at character {at}")
        name, at = scanstring(text, at + 1)
        at = _skip(text, at)
        if text[at] != ":":
            raise ValueError(f"no colon at character {at}")
        at = _skip(text, _value(text, _skip(text, at + 1), (*path, name), found))
        at = _next(text, at, "}")
    return at + 1


def _next(text: str, at: int, closing: str) -> int:
    """Past a comma to the next element, or at the closing bracket."""
    if text[at] == closing:
        return at
    if text[at] != ",":
        raise ValueError(f"no comma at character {at}")
    at = _skip(text, at + 1)
    if text[at] == closing:
        raise ValueError(f"a comma before {closing} at character {at}")
    return at


def notes_of(source: Source) -> Iterator[Note]:
    """One note a scalar of a JSON output; a text that is no JSON gives none.

    The subject names the call and the record, so that two calls with other arguments never speak of
    one fact; strings with escapes are left out, since their bytes do not show their value.
    """
    text = source.content.decode("utf-8", "replace")
    for leaf in leaves(text) or ():
        if not leaf.value or text[leaf.start : leaf.end] != leaf.value:
            continue
        where = ".".join(str(it) for it in leaf.record)
        start = len(text[: leaf.start].encode())
        yield Note(
            f"{source.tool}({source.arguments})" + (f"#{where}" if where else ""),
            leaf.pattern,
            leaf.value,
            source.id,
            start,
            start + len(leaf.value.encode()),
            source.at_s,
        )
