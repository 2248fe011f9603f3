"""Phrases in text that was written so as not to match: a finder over normalised text.

One Aho-Corasick automaton holds all phrases as `Normal.merged` has them, and phrases of several
words also without what stands between the words. It goes over the text once, and over *spelled*
stretches with the marks between letters taken out, where a cheap test says that there are any.
Every hit is then compared with the phrase, character for character:

- **leet**: phrases of 4 characters or more, of which at least half stand as themselves;
- **spaced**: 1 to 3 marks or blanks after every letter, phrases of 4 letters, or 2 Chinese
  characters (2 only when they stand alone, or with marks that prose does not have);
- **split**: marks that are no blanks and no punctuation of sentences inside a word (`ig-nore`),
  phrases of 5 letters or 3 Chinese characters;
- **joined**: the words of a phrase with other marks between them, or with none (12 characters);
- **look-alikes**: a word wholly of another alphabet's look-alikes counts from 5 letters on.

Edges of words hold everywhere as in `words`.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate, compress, pairwise
from typing import NamedTuple

import numpy as np
from ahocorasick_rs import AhoCorasick, Implementation

from starloom.serve.guard.base import Entry, Found, Scan
from starloom.serve.guard.normal import (
    BETWEEN,
    CJK,
    DIGIT,
    LEET,
    LETTER,
    NOISE,
    Normal,
    Normaliser,
    Options,
)
from starloom.serve.guard.prefixes import Prefixes
from starloom.serve.guard.words import fold, in_word

MAX_GAP = 3
_LEET_CHARS, _SPACED_LETTERS, _SPACED_CJK, _SPLIT_LETTERS, _SPLIT_CJK = 4, 4, 2, 5, 3
_JOINED_CHARS, _ALIEN_CHARS = 12, 5
_NOISES = bytes([NOISE])
_UNCOMMON = frozenset("#*^~|+=&%@$_\\`•")
"""Marks that prose does not put between Chinese words."""
_LEET_MARKS = frozenset(sign for sign in LEET if not sign.isdigit())
_LEET_MARK = re.compile(r"[@$!|](?:(?=[^\W_])|(?<=[^\w@$!|].)(?![@$!|=])|$)")
"""A mark that may stand for a letter: before a letter, or alone."""
_AS_MARKS = bytes.maketrans(bytes([LETTER, DIGIT, CJK, NOISE]), b"wwwn")
_SPELLED = re.compile(rb"sws{1,3}ws")
"""Two single letters in a row, each between marks: in all that is spaced, from 4 letters on."""
_CHAIN = re.compile(rb"(?:s{1,3}w)+")
_SPELLED_CJK = re.compile(rb"[ns]c[ns]")
_CHAIN_CJK = re.compile(rb"c(?:[ns]{1,3}c){2,}|(?<![adc])c[ns]{1,3}c(?![adc])")
_BREAK = "\0"
_WORDY = frozenset((LETTER, DIGIT, CJK))
_LATIN = frozenset((LETTER, DIGIT))
_TWO = bytes(ord("w") if code in _WORDY else ord("s") for code in range(256))
_KEPT = bytes(code in (0, *_WORDY) for code in range(256))
"""0 is the class of a break between stretches."""
_NOT_NOISE = bytes(code != NOISE for code in range(256))
_SHORT = 256
"""Shorter texts are faster without NumPy."""


_Match = tuple[int, int, int]
"""Pattern, start, end."""
_SpelledHit = tuple[int, int, int, bool]
"""Start, end, phrase, and whether the end of the word is open."""


class _Phrase(NamedTuple):
    entries: tuple[Entry, ...]
    text: str
    """Normalised."""
    letters: str
    """The same without what is between words."""
    breaks: frozenset[int]
    """Places in `letters` before which something was."""
    plain: str
    """Folded only: what the phrase is without look-alikes."""
    cjk: bool
    """Whether it has no letters of a script that writes words apart."""


class LooseMatcher:
    """All phrases that hold at one place, however they are spelled."""

    def __init__(self, entries: Iterable[Entry], options: Options = Options()) -> None:  # noqa: B008
        self._normalise = Normaliser(options)
        self._options = options
        by_text: dict[str, list[Entry]] = {}
        listed = list(entries)
        folded = fold(BETWEEN.join(entry.phrase for entry in listed)).split(BETWEEN)
        if len(folded) != len(listed):  # a phrase holds the separator
            folded = [fold(entry.phrase) for entry in listed]
        for plain, entry in zip(folded, listed, strict=True):
            by_text.setdefault(plain, []).append(entry)
        self._phrases: list[_Phrase] = []
        patterns: dict[str, list[tuple[int, bool]]] = {}
        spelled: list[str] = []
        words: list[str] = []
        normals = self._normalise.many(list(by_text))
        for (plain, group), normal in zip(by_text.items(), normals, strict=True):
            if not normal.text.strip():
                continue
            letters = "".join(compress(normal.text, normal.classes.translate(_KEPT)))
            merged = "".join(compress(normal.merged, normal.classes.translate(_KEPT)))
            cjk = LETTER not in normal.classes and DIGIT not in normal.classes
            phrase = _Phrase(tuple(group), normal.text, letters, _breaks(normal), plain, cjk)
            self._phrases.append(phrase)
            patterns.setdefault(normal.merged, []).append((len(self._phrases) - 1, False))
            if options.spacing and len(letters) >= (_SPACED_CJK if cjk else _SPACED_LETTERS):
                spelled.append(merged)
                if phrase.breaks:
                    words.append(merged)
                if letters != normal.text:
                    patterns.setdefault(merged, []).append((len(self._phrases) - 1, True))
        self._patterns = [tuple(them) for them in patterns.values()]
        self._word_first = [self._all(them, 0) for them in self._patterns]
        self._word_last = [self._all(them, -1) for them in self._patterns]
        self._split_chars = np.array([self._least(them) for them in self._patterns], np.intp)
        self._exact = Prefixes(patterns)
        self._spelled = Prefixes(spelled)
        self._words = Prefixes(words)
        self._automaton = AhoCorasick(
            list(patterns), implementation=Implementation.ContiguousNFA, store_patterns=False
        )

    def _least(self, them: tuple[tuple[int, bool], ...]) -> int:
        """Characters from which a pattern may have a mark at only some of its places."""
        phrases = [self._phrases[index] for index, _ in them]
        least = (_SPLIT_CJK if it.cjk else 0 if it.breaks else _SPLIT_LETTERS for it in phrases)
        return min(least)

    def _all(self, them: tuple[tuple[int, bool], ...], at: int) -> bool:
        """Whether all phrases of a pattern have a letter of a word at one end."""
        return all(in_word(_target(self._phrases[index], joined)[at]) for index, joined in them)

    def __len__(self) -> int:
        return len(self._phrases)

    def scan(self, text: str, begin: int, *, final: bool) -> Scan:
        normal = self._normalise(text)
        found = []
        open_at = len(normal.text)
        for start, end, phrase, is_open in self._hits(text, normal):
            first, last = normal.span(start, end)
            if first < begin:
                continue
            if is_open:
                open_at = min(open_at, start)
            found.append(Found(first, last, phrase.entries))
        if final:
            return Scan(found, len(text))
        low = begin if normal.at is None else int(np.searchsorted(normal.at, begin))
        settled = min(open_at, len(normal.text) - self._begun(normal, low))
        if settled == len(normal.text):
            return Scan(found, len(text))
        return Scan(found, max(begin, normal.span(settled, settled + 1)[0]))

    def _hits(self, text: str, normal: Normal) -> Iterator[tuple[int, int, _Phrase, bool]]:
        """Start, end, phrase, and whether the hit still waits for the end of its word."""
        written, classes = normal.text, normal.classes
        seen: set[tuple[int, int, int]] = set()
        matches = self._find(normal.merged)
        for pattern, start, end in matches:
            # Most matches are inside longer words: see to these first.
            if self._word_first[pattern] and start and classes[start - 1] in _LATIN:
                continue
            if self._word_last[pattern] and end < len(classes) and classes[end] in _LATIN:
                continue
            for index, joined in self._patterns[pattern]:
                phrase = self._phrases[index]
                target = _target(phrase, joined)
                if joined and len(target) < _JOINED_CHARS:
                    continue
                if written[start:end] != target and not _spells(written[start:end], target):
                    continue
                is_open = _edges(normal, start, end, target)
                if is_open is None or self._is_alien(text, normal, start, end, phrase):
                    continue
                seen.add((start, end, index))
                yield start, end, phrase, is_open
        if self._options.spacing:
            for start, end, index, is_open in self._spelled_hits(normal, matches):
                if (start, end, index) not in seen:
                    seen.add((start, end, index))
                    yield start, end, self._phrases[index], is_open

    def _is_alien(self, text: str, normal: Normal, start: int, end: int, phrase: _Phrase) -> bool:
        """Whether a short word merely looks like the phrase, in another alphabet."""
        if end - start >= _ALIEN_CHARS or not self._options.homoglyphs:
            return False
        if text.isascii() and phrase.plain.isascii():
            return False
        first, last = normal.span(start, end)
        written = fold(text[first:last])
        if written == phrase.plain:
            return False
        letters = [char for char in written if char.isalpha()]
        latin = sum(char.isascii() for char in letters)
        other = sum(0x370 <= ord(char) < 0x590 for char in letters)
        return other == len(letters) > 0 if phrase.plain.isascii() else latin == len(letters) > 0

    def _spelled_hits(self, normal: Normal, plain: list[_Match]) -> Iterator[_SpelledHit]:
        yield from self._split_hits(normal, normal.classes, plain)
        yield from self._chain_hits(normal, normal.classes)
        if self._options.leet and _LEET_MARK.search(normal.text):
            classes = _with_leet_letters(normal)
            yield from self._split_hits(normal, classes, plain)
            yield from self._chain_hits(normal, classes)

    def _split_hits(
        self, normal: Normal, classes: bytes, plain: list[_Match]
    ) -> Iterator[_SpelledHit]:
        """Hits in the text without any noise, where that gives others."""
        three = classes.translate(_AS_MARKS)
        if not (b"wnw" in three or b"wnnw" in three or b"wnnnw" in three):
            return
        matches = self._find(_kept(normal.merged, classes, _NOT_NOISE))
        if [it[0] for it in matches] == [it[0] for it in plain]:
            return
        places = np.flatnonzero(np.frombuffer(classes, np.uint8) != NOISE)
        table = np.array(matches, np.intp).reshape(-1, 3)
        size = table[:, 2] - table[:, 1]
        marks = places[table[:, 2] - 1] - places[table[:, 1]] - (size - 1)
        likely = (size >= self._split_chars[table[:, 0]]) | (marks >= size - 1)
        for row in np.flatnonzero((marks > 0) & likely).tolist():
            pattern, start, end = matches[row]
            yield from self._if_spelled(normal, classes, pattern, places[start:end].tolist())

    def _chain_hits(self, normal: Normal, classes: bytes) -> Iterator[_SpelledHit]:
        """Hits among letters that stand alone."""
        chains = _chains(classes)
        if not chains:
            return
        text = _BREAK.join([normal.merged[first:last] for first, last in chains])
        signs = b"\0".join([classes[first:last] for first, last in chains])
        matches = self._find(_kept(text, signs, _KEPT))
        if not matches:
            return
        offsets = [0, *accumulate(last - first + 1 for first, last in chains)]
        places = list(compress(range(len(signs)), signs.translate(_KEPT)))
        for pattern, start, end in matches:
            if places[end - 1] - places[start] > end - start - 1:
                number = bisect_right(offsets, places[start]) - 1
                shift = chains[number][0] - offsets[number]
                at = [place + shift for place in places[start:end]]
                yield from self._if_spelled(normal, classes, pattern, at)

    def _find(self, text: str) -> list[_Match]:
        return self._automaton.find_matches_as_indexes(text, overlapping=True)

    def _if_spelled(
        self, normal: Normal, classes: bytes, pattern: int, places: list[int]
    ) -> Iterator[_SpelledHit]:
        """The phrases of a match whose characters stand at `places`."""
        at = [place for place in places if classes[place] in _WORDY]
        for index, joined in self._patterns[pattern]:
            phrase = self._phrases[index]
            if joined or phrase.breaks or len(at) == len(places):
                is_open = _spelled(normal, classes, at, phrase)
                if is_open is not None:
                    yield at[0], at[-1] + 1, index, is_open

    def _begun(self, normal: Normal, low: int) -> int:
        """Characters at the end, behind `low`, that may become a phrase with what follows."""
        held = self._exact.begun(normal.merged, normal.classes, low)
        if not self._options.spacing:
            return held
        held = max(held, self._begun_spelled(normal, normal.classes, low))
        if self._options.leet and _LEET_MARK.search(normal.text, low):
            held = max(held, self._begun_spelled(normal, _with_leet_letters(normal), low))
        return held

    def _begun_spelled(self, normal: Normal, classes: bytes, low: int) -> int:
        """The same of letters with marks between them."""
        size = len(classes)
        held, letters, after = 0, "", size
        whole = soft = marks = False
        for at in range(size - 1, low - 1, -1):
            if classes[at] not in _WORDY:
                if after - at > MAX_GAP:
                    break
                marks = True
                soft = soft or classes[at] != NOISE
                continue
            whole = whole or (letters != "" and after == at + 1)
            after = at
            letters = normal.merged[at] + letters
            if len(letters) >= self._spelled.max_chars:
                break
            inside = at and classes[at] in _LATIN and classes[at - 1] in _LATIN
            if marks and not inside:
                # Letters side by side, and what cannot split a word: only between words.
                phrases = self._words if whole and soft else self._spelled
                if phrases.begins(letters):
                    held = size - at
        return held


def _target(phrase: _Phrase, joined: bool) -> str:
    return phrase.letters if joined else phrase.text


def _breaks(normal: Normal) -> frozenset[int]:
    kept = list(compress(range(len(normal.classes)), normal.classes.translate(_KEPT)))
    if not kept or kept[-1] - kept[0] == len(kept) - 1:
        return frozenset()
    pairs = enumerate(pairwise(kept), 1)
    return frozenset(number for number, (one, other) in pairs if other > one + 1)


def _with_leet_letters(normal: Normal) -> bytes:
    """Classes with the marks of leet taken as the letters that they stand for."""
    classes = bytearray(normal.classes)
    for mark in _LEET_MARKS:
        at = normal.text.find(mark)
        while at >= 0:
            classes[at] = LETTER
            at = normal.text.find(mark, at + 1)
    return bytes(classes)


def _kept(text: str, classes: bytes, kept: bytes) -> str:
    """The characters whose class is set in the table `kept`."""
    if len(text) < _SHORT:
        return "".join(compress(text, classes.translate(kept)))
    chosen = np.frombuffer(classes.translate(kept), np.bool_)
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    return codes[chosen].tobytes().decode("utf-32-le")


def _chains(classes: bytes) -> list[tuple[int, int]]:
    """Stretches of letters that stand alone, with the two at the ends. They may overlap."""
    regions = []
    two = b"s" + classes.translate(_TWO) + b"s"
    done = 0
    for match in _SPELLED.finditer(two):
        first = match.start()
        if first >= done:
            chain = _CHAIN.match(two, first)
            done = chain.end() if chain else first + 1
            before = two.rfind(b"w", max(0, first - MAX_GAP), first)
            regions.append((max(0, (first if before < 0 else before) - 1), done - 1))
    if CJK in classes and _SPELLED_CJK.search(b"s" + classes + b"s"):
        regions += [it.span() for it in _CHAIN_CJK.finditer(classes)]
    return regions


def _spells(written: str, target: str) -> bool:
    """Whether `written` is `target` with some letters in leet."""
    if len(target) < _LEET_CHARS:
        return False
    other = [(one, two) for one, two in zip(written, target, strict=True) if one != two]
    return 2 * len(other) <= len(target) and all(_stands_for(*pair) for pair in other)


def _stands_for(sign: str, letter: str) -> bool:
    return LEET.get(sign) == letter or (letter == "l" and sign in "1!|")


def _edges(normal: Normal, start: int, end: int, target: str) -> bool | None:
    """Whether the end of the word is still open; None when the hit is inside a longer word."""
    if start and in_word(target[0]) and in_word(normal.text[start - 1]):
        return None
    if not in_word(target[-1]):
        return False
    if end == len(normal.text):
        return True
    return None if in_word(normal.text[end]) else False


def _spelled(normal: Normal, classes: bytes, at: list[int], phrase: _Phrase) -> bool | None:
    """Whether letters that stand at `at` are the phrase, spelled: as `_edges` says it."""
    cjk = phrase.cjk
    if len(at) < (_SPACED_CJK if cjk else _SPACED_LETTERS):
        return None
    all_apart = at[-1] - at[0] >= 2 * (len(at) - 1)
    if not all_apart and not phrase.breaks and len(at) < (_SPLIT_CJK if cjk else _SPLIT_LETTERS):
        return None
    written = "".join([normal.text[place] for place in at])
    if written != phrase.letters and not _spells(written, phrase.letters):
        return None
    inner: list[tuple[int, int]] = []
    for number, (one, other) in enumerate(pairwise(at), 1):
        if other - one > MAX_GAP + 1:
            return None
        if number not in phrase.breaks:
            inner.append((one + 1, other))
    apart = [gap for gap in inner if gap[0] < gap[1]]
    alone = not cjk
    if apart and len(apart) == len(inner):
        if cjk and len(at) == _SPACED_CJK:
            alone = not all(_UNCOMMON.issuperset(normal.text[one:other]) for one, other in apart)
    elif apart:
        if len(at) < (_SPLIT_CJK if cjk else _SPLIT_LETTERS):
            return None
        if any(classes[one:other].strip(_NOISES) for one, other in apart):
            return None
    if not alone:
        return False
    beside = _WORDY if cjk else _LATIN
    if at[0] and classes[at[0] - 1] in beside:
        return None
    if at[-1] + 1 == len(classes):
        return True
    return None if classes[at[-1] + 1] in beside else False
