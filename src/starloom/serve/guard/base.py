"""What the guard says, and what the finders and the filter of a streamed answer promise."""

from typing import Literal, NamedTuple, Protocol

import msgspec

Action = Literal["block", "mask", "pass"]
"""`pass`: let through although it could not be checked; written down, never silent."""
Where = Literal["input", "output"]
Policy = Literal["pass", "refuse"]
"""What happens to that which cannot be checked."""


class Entry(NamedTuple):
    """A phrase of a word list, or a kind of pattern."""

    list: str
    phrase: str
    action: Action


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was found. Holds the list's phrase and a span, never the text around it."""

    list: str
    """Name of the word list or pattern rule; `model` or `media` for those."""
    phrase: str
    """As the list writes it; the kind of a pattern, the category of a model, what media are."""
    action: Action
    where: Where
    start: int
    """First character in the text (of an answer: counted from its beginning)."""
    end: int
    """One past the last character."""
    part: int = 0
    """Which of the texts of one request; of media, which of the media parts."""


class Found(NamedTuple):
    """Something at [start, end) of a text, and the entries that say what to do."""

    start: int
    end: int
    entries: tuple[Entry, ...]


class Scan(NamedTuple):
    """What a finder says of a text that may go on."""

    found: list[Found]
    """All that is certain whatever follows, in any order."""
    settled: int
    """Nothing else can begin before here. Never less than `begin`."""


class Finder(Protocol):
    """Looks for one sort of content. Immutable, shared by all requests."""

    def scan(self, text: str, begin: int, *, final: bool) -> Scan:
        """What begins at `begin` or behind; the text before is context. `final`: no more follows.

        Whether something is found depends on itself and on few characters around it, never on how
        the text was cut: at least `CONTEXT_CHARS` before `begin` are shown where there are as many.
        """


CONTEXT_CHARS = 12
"""Enough for the edge of a word, with some invisible characters before it."""


class TextFilter(Protocol):
    """Lets one text out piece by piece. What is let out does not depend on how it was cut."""

    verdicts: list[Verdict]
    """What was found so far, in the order of the text."""

    @property
    def blocked(self) -> bool:
        """Whether the text ends here. Once true, nothing more is let out."""

    def feed(self, text: str) -> str:
        """Take the next piece; return what may be seen now."""

    def finish(self) -> str:
        """The text is complete: return the rest that may be seen. May block, too."""
