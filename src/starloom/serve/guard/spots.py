"""What a kind of pattern is to the finder that runs them, and what they share.

No pattern is tried at each character of a text: a cheap test (an automaton of triggers, a character
that must be there, a digit) says where to look, and there a pattern is matched, anchored and
bounded. So the time of a text grows with its length, whatever is in it.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol


class Spot(NamedTuple):
    """A kind of pattern at [start, end)."""

    start: int
    end: int
    kind: str


class Spotter(Protocol):
    """Finds some kinds. Immutable. Looks at most `base.CONTEXT_CHARS` before a spot."""

    kinds: frozenset[str]

    def spots(self, text: str) -> Iterable[Spot]:
        """All spots in a text, as if nothing followed."""

    def begun(self, text: str, low: int) -> int:
        """The first place, `low` or behind, where a spot may be in the making; else the length."""


def at_edge(text: str, start: int) -> bool:
    """Whether no ASCII letter or digit stands before `start`. Chinese may: it has no blanks."""
    return not start or not (text[start - 1].isascii() and text[start - 1].isalnum())


def tail(text: str, low: int, chars: frozenset[str], most: int) -> int:
    """Where the run of `chars` at the end begins, of at most `most` characters."""
    at = len(text)
    lowest = max(low, at - most)
    while at > lowest and text[at - 1] in chars:
        at -= 1
    return at


def positions(text: str, char: str) -> Iterator[int]:
    at = text.find(char)
    while at >= 0:
        yield at
        at = text.find(char, at + 1)
