"""Text that arrives in pieces: what may be let out, and what must wait for the next piece."""

from bisect import bisect_left
from collections.abc import Iterable


class Phrases:
    """A set of phrases that can tell whether a text ends in the beginning of one of them.

    Memory is that of the phrases alone; a question costs at most `max_chars` binary searches.
    """

    def __init__(self, phrases: Iterable[str]) -> None:
        self._sorted = sorted({phrase for phrase in phrases if phrase})
        self.max_chars = max(map(len, self._sorted), default=0)

    def __bool__(self) -> bool:
        return bool(self._sorted)

    def begun(self, text: str) -> int:
        """Characters at the end of `text` that begin a phrase without completing it; 0 if none do.

        The longest such suffix counts: whatever stands before it can never become part of a phrase.
        """
        for size in range(min(self.max_chars - 1, len(text)), 0, -1):
            suffix = text[-size:]
            at = bisect_left(self._sorted, suffix)
            if at < len(self._sorted) and self._sorted[at] == suffix:
                at += 1  # the suffix is a phrase itself; a longer one that it begins follows
            if at < len(self._sorted) and self._sorted[at].startswith(suffix):
                return size
        return 0
