"""Text as a reader takes it: one case, one width, no look-alikes, nothing invisible.

A normalised text keeps a map to the original, so that what is found in it can be cut out of the
text as it was written. Each character is normalised by itself, wherever a text is cut; of several
blanks in a row the first stays.

ASCII costs three passes of `bytes.translate`; everything else a few NumPy look-ups in tables over
all of Unicode, which are built once (about 0.1 s, 10 MB).
"""

import unicodedata
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from starloom.serve.guard.han import SIMPLIFIED
from starloom.serve.guard.lookalikes import ALPHABETS, INVISIBLE, LOOKALIKES, MARKS

LEET = dict(zip("013457@$!|89", "oieastasiibg", strict=True))
"""Sign -> the letter that it stands for. `l` is read as `i`, too, because `1` may be either."""
_MERGED = {**LEET, "l": "i"}

LETTER, DIGIT, CJK, NOISE, OTHER = b"adcns"
"""Classes of characters: of a script that writes words apart; of one that does not; marks that are
put between letters; everything else, blanks and the punctuation of sentences among it."""
_NOISE = "-*_~.·|/\\+=^#&%`@$•‧・〜—–<>[](){}"

_TRUE = np.ones(1, bool)
_SIZE = 0x110000
_DROP = _SIZE
_EXPAND = _SIZE + 1
_FOLDING = (
    *((0, 0x3400), (0xA640, 0xAC00), (0xF900, 0x10000), (0x10400, 0x10600), (0x10C80, 0x10D00)),
    *((0x118A0, 0x118E0), (0x16E40, 0x16E80), (0x1BC00, 0x1BD00), (0x1D100, 0x1D800)),
    *((0x1E900, 0x1E960), (0x1F100, 0x1F200), (0x2F800, 0x2FA20)),
)
"""Where characters fold to others; those outside stand for themselves."""
_TOGETHER = ((0x3400, 0x4DC0), (0x4E00, 0xA48D), (0xAC00, 0xD7A4), (0x20000, 0x323B0))
"""Chinese characters, Yi and Hangul syllables: caseless letters all."""
_MAX_EXPANSION = 4
BETWEEN = "\ue000"
"""A character of private use: it folds to itself and is no letter."""


class Options(NamedTuple):
    """Which evasions are undone, besides case, width, marks and what is invisible."""

    homoglyphs: bool = True
    spacing: bool = True
    leet: bool = True
    han: bool = True


class Normal(NamedTuple):
    """A text normalised. All fields have the same length."""

    text: str
    merged: str
    """The same with leet undone and `l` as `i`: equal to a phrase's if they may be the same."""
    classes: bytes
    at: npt.NDArray[np.intp] | None
    """Where each character stands in the original; None when they are the same."""

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The original's span of the characters [start, end)."""
        if self.at is None:
            return start, end
        return int(self.at[start]), int(self.at[end - 1]) + 1


class Normaliser:
    """Normalises with some options. Immutable; those with equal options share tables."""

    def __init__(self, options: Options = Options()) -> None:  # noqa: B008 - an immutable tuple
        tables = _tables(homoglyphs=options.homoglyphs, han=options.han, leet=options.leet)
        self._fold, self._merged, self._classes, self._expansions = tables
        self._ascii_fold, self._ascii_merged, self._ascii_classes = _ascii_tables(
            homoglyphs=options.homoglyphs, han=options.han, leet=options.leet
        )

    def many(self, texts: list[str]) -> list[Normal]:
        """The same as one call each, without `at`, and for short texts much faster."""
        whole = self(BETWEEN.join(texts))
        pieces = whole.text.split(BETWEEN)
        if len(pieces) != len(texts):  # a text holds the separator
            return [self(text)._replace(at=None) for text in texts]
        made, start = [], 0
        for piece in pieces:
            end = start + len(piece)
            made.append(Normal(piece, whole.merged[start:end], whole.classes[start:end], None))
            start = end + 1
        return made

    def __call__(self, text: str) -> Normal:
        if not text.isascii():
            raw = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
            return self._mapped(text, self._fold[raw])
        at: npt.NDArray[np.intp] | None = None
        folded = text.encode().translate(self._ascii_fold)
        if b"  " in folded or b"\0" in folded:
            codes = np.frombuffer(folded, np.uint8)
            at = np.flatnonzero(codes)
            blank = codes[at] == 32
            at = at[np.concatenate((_TRUE, ~(blank[1:] & blank[:-1])))[: len(at)]]
            folded = codes[at].tobytes()
        return Normal(
            folded.decode(),
            folded.translate(self._ascii_merged).decode(),
            folded.translate(self._ascii_classes),
            at,
        )

    def _mapped(self, text: str, codes: npt.NDArray[np.uint32]) -> Normal:
        at: npt.NDArray[np.intp] | None = None
        if codes.max(initial=0) >= _SIZE:
            if (codes == _EXPAND).any():
                codes, at = self._expanded(text, codes)
            keep = codes != _DROP
            at = np.flatnonzero(keep) if at is None else at[keep]
            codes = codes[keep]
        folded = codes.tobytes().decode("utf-32-le")
        if "  " in folded:
            blank = codes == 32
            keep = np.concatenate((_TRUE, ~(blank[1:] & blank[:-1])))
            at = np.flatnonzero(keep) if at is None else at[keep]
            codes = codes[keep]
            folded = codes.tobytes().decode("utf-32-le")
        return Normal(
            folded,
            self._merged[codes].tobytes().decode("utf-32-le"),
            self._classes[codes].tobytes(),
            at,
        )

    def _expanded(
        self, text: str, codes: npt.NDArray[np.uint32]
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.intp]]:
        """Ligatures and the like as the letters they are made of, all at one place."""
        made, at = [], []
        for place, code in enumerate(codes.tolist()):
            parts = map(ord, self._expansions[text[place]]) if code == _EXPAND else (code,)
            for part in parts:
                made.append(part)
                at.append(place)
        return np.array(made, np.uint32), np.array(at, np.intp)


_Tables = tuple[
    npt.NDArray[np.uint32], npt.NDArray[np.uint32], npt.NDArray[np.uint8], dict[str, str]
]


@cache
def _ascii_tables(*, homoglyphs: bool, han: bool, leet: bool) -> tuple[bytes, bytes, bytes]:
    """The same for `bytes.translate`; what is dropped becomes 0."""
    fold, merged, classes, _ = _tables(homoglyphs=homoglyphs, han=han, leet=leet)
    rest = bytes(range(128, 256))
    kept = bytes(code if code < _SIZE else 0 for code in fold[:128].tolist())
    return (
        kept + rest,
        merged[:128].astype(np.uint8).tobytes() + rest,
        classes[:128].tobytes() + bytes([OTHER]) * 128,
    )


@cache
def _tables(*, homoglyphs: bool, han: bool, leet: bool) -> _Tables:
    fold = np.arange(_SIZE, dtype=np.uint32)
    fold[0xD800:0xE000] = 0xFFFD  # no automaton takes a lone surrogate
    fold[0xE0000:0xE1000] = _DROP
    expansions: dict[str, str] = {}
    for code in (code for first, last in _FOLDING for code in range(first, last)):
        folded = _folded(chr(code), homoglyphs=homoglyphs)
        fold[code] = ord(folded) if len(folded) == 1 else _EXPAND if folded else _DROP
        if len(folded) > 1:
            expansions[chr(code)] = folded
    for first in ALPHABETS:
        fold[first : first + 26] = np.arange(ord("a"), ord("z") + 1)
    fold[[ord(char) for char in INVISIBLE]] = _DROP
    if han:
        for char, simple in SIMPLIFIED.items():
            fold[ord(char)] = ord(simple)
    kept = fold < _SIZE
    fold[kept] = fold[fold[kept]]  # what folds to a character that folds on
    merged = np.arange(_SIZE, dtype=np.uint32)
    if leet:
        for sign, letter in _MERGED.items():
            merged[ord(sign)] = ord(letter)
    return fold, merged, _class_table(), expansions


def _folded(char: str, *, homoglyphs: bool) -> str:
    """One character as a reader takes it; empty when nobody sees it."""
    if char.isspace():
        return " "
    if unicodedata.category(char) in ("Cf", "Cc"):
        return ""
    parts = unicodedata.normalize("NFKD", char)
    if parts != char or unicodedata.combining(char):
        bare = "".join(part for part in parts if not _is_mark(part))
        parts = unicodedata.normalize("NFC", bare)
    folded = parts.lower().replace("ς", "σ")
    if len(folded) == 3 and folded[0] == "(":
        folded = folded[1]
    if homoglyphs:
        folded = "".join(LOOKALIKES.get(part, part) for part in folded)
    if len(folded) == 1:
        digit = unicodedata.decimal(folded, None)
        return folded if digit is None else str(int(digit))
    if folded == "" or (folded.isalnum() and len(folded) <= _MAX_EXPANSION):
        return folded
    return char


def _is_mark(char: str) -> bool:
    return any(first <= ord(char) <= last for first, last in MARKS)


@cache
def _class_table() -> npt.NDArray[np.uint8]:
    """Classes of normalised characters. Caseless letters are written together: Chinese, Thai."""
    classes = np.full(_SIZE, OTHER, np.uint8)
    for first, last in _TOGETHER:
        classes[first:last] = CJK
    for code in (*range(0x3400), *range(0xA48D, 0xAC00), *range(0xF900, 0x20000)):
        char = chr(code)
        if char.isdecimal():
            classes[code] = DIGIT
        elif char.isalpha():
            classes[code] = LETTER if char.upper() != char else CJK
        elif char.isalnum():
            classes[code] = CJK
    for char in _NOISE:
        classes[ord(char)] = NOISE
    return classes
