"""Marks: client text goes through a chat template without ever spelling a special token.

Where a client's string holds a special token, or begins or ends with a part of one, a character of
it is replaced by one out of a private-use range that the request's own text does not use. After
rendering, special tokens are looked for in the marked text, and only then the characters come
back. What a special token is made of was therefore written by the template.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from starloom.serve.errors import BadRequest
from starloom.serve.text import Phrases

_RANGES = range(0x0F0000, 0x10FF00, 0x200)
_PRIVATE = re.compile("[\U000f0000-\U0010ffff]")
_NOTHING = "(?!)"
_ROLE = "role"  # the gateway accepts known roles only, and templates build special tokens of them


class Marker:
    """Marks strings against one tokenizer's special tokens."""

    def __init__(self, specials: Iterable[str]) -> None:
        known = sorted(filter(None, specials), key=lambda text: (-len(text), text))
        self._pattern = re.compile("|".join(map(re.escape, known)) or _NOTHING)
        self._begun = Phrases(known)
        self._ended = Phrases(text[::-1] for text in known)
        firsts = re.escape("".join(sorted({text[0] for text in known})))
        self._firsts = re.compile(f"[{firsts}]" if firsts else _NOTHING)
        self._tails: dict[str, tuple[str, ...]] = {}
        for tail in {text[at:] for text in known for at in range(1, len(text))}:
            self._tails[tail[0]] = (*self._tails.get(tail[0], ()), tail)
        self._alphabet = sorted({char for text in known for char in text})

    def mark(
        self, messages: Sequence[Mapping[str, Any]], *, everywhere: bool
    ) -> tuple[Sequence[Mapping[str, Any]], Mapping[int, str]]:
        """Marked messages, and the table for `str.translate` that takes the marks back out.

        `everywhere` marks each character that begins a special token, for templates that edit
        content: what an edit joins together cannot begin with such a character then.
        """
        if not any(map(self._risky, _strings(messages))):
            return messages, {}
        start = self._free_range(messages)
        there = {char: chr(start + at) for at, char in enumerate(self._alphabet)}
        back = {start + at: char for at, char in enumerate(self._alphabet)}

        def marked(text: str) -> str:
            if everywhere:
                text = self._firsts.sub(lambda match: there[match.group()], text)
            return self._mark(text, there)

        return [_mapped(message, marked) for message in messages], back

    def broken(self, text: str) -> Iterator[str]:
        """`text` in parts none of which holds a whole special token."""
        at = 0
        while (match := self._pattern.search(text, at)) is not None:
            cut = match.start() + 1
            yield text[at:cut]
            at = cut
        yield text[at:]

    def _risky(self, text: str) -> bool:
        if self._firsts.search(text):
            return True
        head = text.lstrip()
        tails = self._tails.get(head[:1])
        return tails is not None and head.startswith(tails)

    def _mark(self, text: str, there: Mapping[str, str]) -> str:
        while self._pattern.search(text):  # again only where special tokens overlap
            text = self._pattern.sub(lambda match: _replaced(match.group(), 0, there), text)
        while (size := self._begun.begun(stripped := text.rstrip())) > 0:
            text = _replaced(text, len(stripped) - size, there)
        while (size := self._ended.begun(_head(text))) > 0:
            text = _replaced(text, len(text) - len(text.lstrip()) + size - 1, there)
        return text

    def _free_range(self, messages: Sequence[Mapping[str, Any]]) -> int:
        used: set[int] = set()
        for text in _strings(messages):
            if not text.isascii():
                used.update(ord(char) & ~0x1FF for char in _PRIVATE.findall(text))
        for start in _RANGES:
            if start not in used and len(self._alphabet) <= 0x200:
                return start
        raise BadRequest("the messages use up the private-use characters", param="messages")


def _head(text: str) -> str:
    """The beginning of `text` that counts, backwards."""
    return text.lstrip()[:256][::-1]


def _replaced(text: str, at: int, there: Mapping[str, str]) -> str:
    return text[:at] + there[text[at]] + text[at + 1 :]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            if key != _ROLE:
                yield key
                yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {
            key if key == _ROLE else change(key): item if key == _ROLE else _mapped(item, change)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_mapped(item, change) for item in value]
    return value
