"""What the guard says, and what a filter of a streamed answer promises."""

from typing import Literal, Protocol

import msgspec

Action = Literal["block", "mask"]
Where = Literal["input", "output"]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """One phrase that was found. Holds the list's phrase and a span, never the text around it."""

    list: str
    """Name of the word list."""
    phrase: str
    """As the list writes it."""
    action: Action
    where: Where
    start: int
    """First character in the text (of an answer: counted from its beginning)."""
    end: int
    """One past the last character."""
    part: int = 0
    """Which of the texts of one request."""


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
