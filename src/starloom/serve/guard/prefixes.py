"""Whether a text can still become one of many phrases."""

from bisect import bisect_left
from collections.abc import Iterable

from starloom.serve.guard.normal import DIGIT, LETTER

_WORD = (LETTER, DIGIT)


class Prefixes:
    """Sorted phrases. A question costs a set look-up, and a binary search where that says yes."""

    def __init__(self, phrases: Iterable[str]) -> None:
        self._sorted = sorted(set(phrases))
        self.max_chars = max(map(len, self._sorted), default=0)
        self._heads = {phrase[:2] for phrase in self._sorted if len(phrase) > 1}
        self._heads |= {head[0] for head in self._heads}

    def begins(self, text: str) -> bool:
        """Whether `text` is the beginning of a longer phrase."""
        if text[:2] not in self._heads:
            return False
        at = bisect_left(self._sorted, text)
        if at < len(self._sorted) and self._sorted[at] == text:
            at += 1  # the text is a phrase itself; a longer one that it begins follows
        return at < len(self._sorted) and self._sorted[at].startswith(text)

    def begun(self, text: str, classes: bytes, low: int = 0) -> int:
        """Characters at the end of `text` that begin a phrase without completing it; 0 if none do.

        The longest such suffix counts, of those that begin at `low` or later and not inside a word.
        """
        size = len(text)
        for start in range(max(low, size - self.max_chars + 1), size):
            if text[start : start + 2] in self._heads:
                inside = start and classes[start] in _WORD and classes[start - 1] in _WORD
                if not inside and self.begins(text[start:]):
                    return size - start
        return 0
