"""Many slow patterns over one text, each only where one of its words stands.

A pattern names words of which every match holds at least one; one Aho-Corasick pass finds where they
are, and the pattern looks at those places alone. Same finds, a tenth of the time (docs/skills.md).
"""

import re
import string
from collections.abc import Iterator, Sequence

from ahocorasick_rs import AhoCorasick, Implementation

_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
REACH = 360
"""Characters around a word within which a match lies."""


class Gate:
    """Patterns with the words that let them look."""

    def __init__(self, entries: Sequence[tuple[re.Pattern[str], str]]) -> None:
        """`entries`: a pattern, and its words parted by `|`, lower case."""
        self.patterns = [pattern for pattern, _ in entries]
        owners: dict[str, list[int]] = {}
        for at, (_, words) in enumerate(entries):
            for word in words.split("|"):
                owners.setdefault(word, []).append(at)
        self._owners = list(owners.values())
        self._words = AhoCorasick(list(owners), implementation=Implementation.DFA)

    def find(self, text: str) -> Iterator[tuple[int, re.Match[str]]]:
        """The index of a pattern with each of its matches; by pattern, then by place."""
        lower = text.lower()
        if len(lower) != len(text):
            lower = text.translate(_LOWER)
        places: dict[int, list[list[int]]] = {}
        for word, start, end in self._words.find_matches_as_indexes(lower, overlapping=True):
            for owner in self._owners[word]:
                spans = places.setdefault(owner, [])
                if spans and start - REACH <= spans[-1][1]:
                    spans[-1][1] = max(spans[-1][1], end + REACH)
                else:
                    spans.append([start - REACH, end + REACH])
        for owner in sorted(places):
            for start, end in places[owner]:
                for match in self.patterns[owner].finditer(
                    text, max(start, 0), min(end, len(text))
                ):
                    yield owner, match
