"""The finder of secrets and personal data: which kinds are looked for, and what is done.

Full-width signs are read as ASCII and what is invisible is skipped; other evasions of `normal` are
not undone, because in numbers and keys every character counts.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import compress

from starloom.serve.guard import personal, secrets
from starloom.serve.guard.base import Entry, Found, Scan
from starloom.serve.guard.spots import Spotter

FAMILIES = {"secrets": secrets.KINDS, "personal": personal.KINDS}
KINDS = frozenset[str]().union(*FAMILIES.values())

_WIDE = re.compile("[\uff01-\uff19\uff20-\uff5e\u3000]")
_NARROW = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F) if code != 0xFF1A}
_NARROW[0x3000] = 0x20
"""Not the colon, which in Chinese stands before anything."""
_SURROGATE = re.compile("[\ud800-\udfff]")
_INVISIBLE = re.compile("[\u00ad\u034f\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufe00-\ufe0f\ufeff]")


def kinds_of(names: Sequence[str]) -> frozenset[str]:
    """The kinds that a rule names, families spelled out. KeyError for a name that is none."""
    kinds: frozenset[str] = frozenset()
    for name in names:
        if name not in FAMILIES and name not in KINDS:
            raise KeyError(name)
        kinds |= FAMILIES.get(name, frozenset({name}))
    return kinds


class PatternFinder:
    """Finds the kinds that `entries` names, each with the entries of its rules."""

    def __init__(self, entries: Mapping[str, tuple[Entry, ...]]) -> None:
        self._entries = dict(entries)
        kinds = frozenset(entries)
        self._spotters: list[Spotter] = [one() for one in personal.SPOTTERS if one.kinds & kinds]
        if kinds & secrets.KINDS:
            self._spotters.append(secrets.Secrets(kinds))

    def scan(self, text: str, begin: int, *, final: bool) -> Scan:
        plain, at = _plain(text)
        low = begin if at is None else _index(at, begin)
        spots = [spot for spotter in self._spotters for spot in spotter.spots(plain)]
        found = []
        settled = len(plain)
        for start, end, kind in spots:
            if kind in self._entries and start >= low:
                first, last = (start, end) if at is None else (at[start], at[end - 1] + 1)
                found.append(Found(first, last, self._entries[kind]))
                if end == len(plain):
                    settled = min(settled, start)
        if final:
            return Scan(found, len(text))
        for spotter in self._spotters:
            settled = min(settled, spotter.begun(plain, low))
        if settled == len(plain):
            return Scan(found, len(text))
        return Scan(found, max(begin, settled if at is None else at[settled]))


def _plain(text: str) -> tuple[str, list[int] | None]:
    """The text in ASCII's width and without what is invisible, and where each character stood."""
    if text.isascii():
        return text, None
    if _SURROGATE.search(text):
        text = _SURROGATE.sub("\ufffd", text)  # no automaton takes a lone one
    if _WIDE.search(text):
        text = text.translate(_NARROW)
    if not _INVISIBLE.search(text):
        return text, None
    seen = [not _INVISIBLE.match(char) for char in text]
    return "".join(compress(text, seen)), list(compress(range(len(text)), seen))


def _index(at: list[int], begin: int) -> int:
    return next((index for index, place in enumerate(at) if place >= begin), len(at))
