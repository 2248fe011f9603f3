"""A streamed text, let out as far as no phrase can still begin in it.

The rule, for a text as a whole: all phrases of `mask` lists are starred; where phrases of `block`
lists stand, the text ends before the first of them. The filter lets the same text out whatever the
pieces are, because it decides about a character only when every phrase that could begin at it or
before it is complete or impossible. What it holds back is therefore never longer than a phrase.
"""

from collections.abc import Iterable

from starloom.serve.guard.base import Verdict, Where
from starloom.serve.guard.words import Hit, Matcher, fold

MAX_VERDICTS = 100
"""A text's verdicts are counted up to here. Phrases behind are masked all the same."""


class OutputFilter:
    """The filter of one text. Without a matcher it lets everything out at once."""

    def __init__(self, matcher: Matcher | None, *, where: Where = "output", part: int = 0) -> None:
        self.verdicts: list[Verdict] = []
        self._matcher = matcher
        self._where = where
        self._part = part
        self._blocked = False
        self._text = ""
        """Not let out yet, with masks in it, and the same folded."""
        self._folded = ""
        self._before = ""
        self._offset = 0

    @property
    def blocked(self) -> bool:
        return self._blocked

    def feed(self, text: str) -> str:
        if self._matcher is None:
            return text
        if self._blocked or not text:
            return ""
        self._text += text
        self._folded += fold(text)
        hits = self._matcher.find(self._folded, self._before)
        settled = len(self._folded) - self._matcher.begun(self._folded)
        settled = min([settled, *(hit.start for hit in hits if hit.open)])
        return self._let_out(self._matcher, hits, settled)

    def finish(self) -> str:
        if self._matcher is None or self._blocked:
            return ""
        hits = self._matcher.find(self._folded, self._before)
        return self._let_out(self._matcher, hits, len(self._folded))

    def _let_out(self, matcher: Matcher, hits: list[Hit], settled: int) -> str:
        """Act on the hits before `settled`: no other can begin there any more."""
        hits = [hit for hit in hits if hit.start < settled]
        cut = min((hit.start for hit in hits if matcher.blocks(hit.phrase)), default=settled)
        self._blocked = cut < settled
        hits = [hit for hit in hits if hit.start < cut or matcher.blocks(hit.phrase)]
        self._note(matcher, [hit for hit in hits if hit.start <= cut])
        text = starred(self._text, [(hit.start, hit.end) for hit in hits if hit.start < cut])
        if self._blocked:
            self._text = self._folded = ""
            return text[:cut]
        if settled:
            self._before = self._folded[settled - 1]
        self._text, self._folded = text[settled:], self._folded[settled:]
        self._offset += settled
        return text[:settled]

    def _note(self, matcher: Matcher, hits: Iterable[Hit]) -> None:
        for hit in sorted(hits):
            for entry in matcher.entries(hit.phrase):
                if len(self.verdicts) < MAX_VERDICTS or entry.action == "block":
                    verdict = Verdict(
                        list=entry.list,
                        phrase=entry.phrase,
                        action=entry.action,
                        where=self._where,
                        start=self._offset + hit.start,
                        end=self._offset + hit.end,
                        part=self._part,
                    )
                    self.verdicts.append(verdict)


def starred(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """The text with a star for each character in the spans, which may overlap."""
    pieces, at = [], 0
    for start, end in sorted(spans):
        if end > at:
            pieces += [text[at : max(at, start)], "*" * (end - max(at, start))]
            at = end
    return "".join([*pieces, text[at:]])
