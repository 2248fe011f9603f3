"""Text as a model or a shell reads it, with a map back to where each character came from.

Three things hide words from a plain search and are undone here: characters that show nothing
(zero-width, bidirectional controls, Unicode tags, which models read as ASCII), letters that look like
others (homoglyphs, by Unicode TR39's idea of confusables; our own small table of what passes for
Latin), and compatibility forms (NFKC: full-width, mathematical alphabets).
"""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

_CONFUSABLE = str.maketrans(
    "АВЕЅІЈКМНОРСТХУаеѕіјорсухԁԛԝһӏΑΒΕΖΗΙΚΜΝΟΡΤΥΧονρυіɡıſ",
    "ABESIJKMHOPCTXYaesijopcyxdqwhlABEZHIKMNOPTYXovpuigis",
)
_CONFUSABLES = {chr(it) for it in _CONFUSABLE}
_FOREIGN = re.compile(r"[^\x00-\x7f]+")
_WORD = re.compile(r"[^\W\d_]+")
_TAGS = re.compile("[\U000e0020-\U000e007e]{4,}")
_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]{8,}")
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180e\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\U000e0000-\U000e01ef]"
)
_SPLIT = re.compile(f"(?<=[A-Za-z])({_INVISIBLE.pattern})(?=[A-Za-z])")
_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069]")
_FLAG = re.compile("\U0001f3f4[\U000e0061-\U000e007a\U000e0030-\U000e0039]{2,8}\U000e007f")
"""Flags of regions (England, Scotland, Wales) are the one honest use of tag characters."""


@dataclass(frozen=True)
class Text:
    """A text and its folded form."""

    raw: str
    folded: str
    _breaks: tuple[list[int], list[int]] = ((), ())  # type: ignore[assignment]
    """Folded offsets from which on the distance to the raw text is another one, and that distance."""
    smuggled: tuple[tuple[int, str], ...] = ()
    """Hidden messages: offset, and what a model reads there."""
    bidi: tuple[int, ...] = ()
    invisible_in_words: tuple[int, ...] = ()
    mixed_words: tuple[tuple[int, str, str], ...] = ()
    """Words of Latin letters with look-alikes of another script: offset, as written, as read."""

    def offset(self, at: int) -> int:
        """Where in the raw text a folded character stands."""
        index = bisect_right(self._breaks[0], at) - 1
        return min(at + self._breaks[1][index], len(self.raw)) if index >= 0 else at

    @cached_property
    def line_starts(self) -> list[int]:
        """Offsets in the folded text at which lines start."""
        return [0, *(m.end() for m in re.finditer("\n", self.folded))]


def fold(raw: str) -> Text:
    """Fold a text. ASCII comes back as it is, at no cost."""
    if raw.isascii():
        return Text(raw, raw)
    letters = set(raw)
    mixed: list[tuple[int, str, str]] = []
    plain = raw
    if letters & _CONFUSABLES:
        mixed = [
            (m.start(), m.group(), read)
            for m in _WORD.finditer(raw)
            if not m.group().isascii() and (read := _as_latin(m.group()))
        ]
        swapped = {at: read for at, _, read in mixed}  # of the same length, letter for letter
        plain = _WORD.sub(lambda m: swapped.get(m.start(), m.group()), raw)
    folded, breaks = _without_tricks(plain)
    hides = _INVISIBLE.search(raw) is not None
    return Text(
        raw,
        folded,
        breaks,
        tuple(_smuggled(raw)) if hides else (),
        tuple(m.start() for m in _BIDI.finditer(raw)) if hides else (),
        tuple(m.start(1) for m in _SPLIT.finditer(raw)) if hides else (),
        tuple(mixed),
    )


def _smuggled(raw: str) -> Iterator[tuple[int, str]]:
    flags = {m.start() for m in _FLAG.finditer(raw)}
    for m in _TAGS.finditer(raw):
        if m.start() - 1 not in flags:
            yield m.start(), "".join(chr(ord(c) - 0xE0000) for c in m.group())
    for m in _SELECTORS.finditer(raw):
        yield m.start(), _selected(m.group())


def _without_tricks(text: str) -> tuple[str, tuple[list[int], list[int]]]:
    """The folded text, and where its offsets shift against the raw one's."""
    out: list[str] = []
    at = shift = length = 0
    places: list[int] = []
    shifts: list[int] = []
    for m in _FOREIGN.finditer(text):
        out.append(text[at : m.start()])
        length += m.start() - at
        for char in m.group():
            read = _read(char)
            out.append(read)
            length += len(read)
            if len(read) != 1:
                shift += 1 - len(read)
                places.append(length)
                shifts.append(shift)
        at = m.end()
    out.append(text[at:])
    return "".join(out), (places, shifts)


@lru_cache(maxsize=20_000)
def _read(char: str) -> str:
    """One character as a model reads it: nothing, the ASCII of a tag, or its compatibility form."""
    if 0xE0020 <= ord(char) <= 0xE007E:
        return chr(ord(char) - 0xE0000)
    return "" if _INVISIBLE.match(char) else unicodedata.normalize("NFKC", char)


def _as_latin(word: str) -> str:
    """A word that mixes Latin with look-alikes, as a person reads it; empty for an honest word.

    A word wholly of another script stays: Cyrillic prose is not an attack.
    """
    latin = sum(c.isascii() for c in word)
    if not latin:
        return ""
    read = word.translate(_CONFUSABLE)
    return read if read.isascii() and read != word else ""


def _selected(run: str) -> str:
    """Bytes hidden in variation selectors (VS1-16 stand for 0-15, VS17-256 for 16-255)."""
    codes = (ord(c) for c in run)
    data = bytes(c - 0xFE00 if c <= 0xFE0F else c - 0xE0100 + 16 for c in codes)
    return data.decode("utf-8", "replace")
