"""A streamed text, let out as far as nothing that is looked for can still begin in it.

The rule, for a text as a whole: all that is to be masked is starred; where something to be blocked
stands, the text ends before the first of it. The filter lets the same text out whatever the pieces
are, because it decides about a character only when everything that could begin at it or before it
is complete or impossible. What it holds back is therefore never longer than what may be found.
"""

from collections.abc import Iterable

from starloom.serve.guard.base import CONTEXT_CHARS, Finder, Found, Verdict, Where

MAX_VERDICTS = 100
"""A text's verdicts are counted up to here. What is found behind is masked all the same."""


class OutputFilter:
    """The filter of one text. Without finders it lets everything out at once."""

    def __init__(self, *finders: Finder | None, where: Where = "output", part: int = 0) -> None:
        self.verdicts: list[Verdict] = []
        self._finders = [finder for finder in finders if finder is not None]
        self._where = where
        self._part = part
        self._blocked = False
        self._raw = ""
        """Context that is out already, and what is not let out yet."""
        self._text = ""
        """What is not let out yet, with masks in it."""
        self._offset = 0

    @property
    def blocked(self) -> bool:
        return self._blocked

    @property
    def held_chars(self) -> int:
        """How much is held back for what may follow."""
        return len(self._text)

    def feed(self, text: str) -> str:
        if not self._finders:
            return text
        if self._blocked or not text:
            return ""
        return self._take(text, final=False)

    def finish(self) -> str:
        if not self._finders or self._blocked or not self._text:
            return ""
        return self._take("", final=True)

    def whole(self, text: str) -> str:
        """A text in one piece: `feed` and `finish` at once."""
        return self._take(text, final=True) if self._finders else text

    def _take(self, text: str, *, final: bool) -> str:
        begin = len(self._raw) - len(self._text)
        self._raw += text
        self._text += text
        found: list[Found] = []
        settled = len(self._raw)
        for finder in self._finders:
            scan = finder.scan(self._raw, begin, final=final)
            found += scan.found
            settled = min(settled, scan.settled)
        if found:
            return self._let_out(found, begin, settled)
        return self._release(begin, settled)

    def _let_out(self, found: list[Found], begin: int, settled: int) -> str:
        """Act on what begins before `settled`: nothing else can begin there any more."""
        found = [it for it in found if it.start < settled]
        cut = min((it.start for it in found if _blocks(it)), default=settled)
        self._blocked = cut < settled
        self._note((it for it in found if it.start <= cut), begin)
        spans = [(it.start - begin, it.end - begin) for it in found if it.start < cut]
        self._text = starred(self._text, spans)
        if not self._blocked:
            return self._release(begin, settled)
        out = self._text[: cut - begin]
        self._text = self._raw = ""
        return out

    def _release(self, begin: int, settled: int) -> str:
        out, self._text = self._text[: settled - begin], self._text[settled - begin :]
        self._raw = self._raw[max(0, settled - CONTEXT_CHARS) :]
        self._offset += settled - begin
        return out

    def _note(self, found: Iterable[Found], begin: int) -> None:
        for it in sorted(found):
            for entry in it.entries:
                if len(self.verdicts) < MAX_VERDICTS or entry.action == "block":
                    verdict = Verdict(
                        list=entry.list,
                        phrase=entry.phrase,
                        action=entry.action,
                        where=self._where,
                        start=self._offset + it.start - begin,
                        end=self._offset + it.end - begin,
                        part=self._part,
                    )
                    self.verdicts.append(verdict)


def _blocks(found: Found) -> bool:
    return any(entry.action == "block" for entry in found.entries)


def starred(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """The text with a star for each character in the spans, which may overlap."""
    pieces, at = [], 0
    for start, end in sorted(spans):
        if end > at:
            pieces += [text[at : max(at, start)], "*" * (end - max(at, start))]
            at = end
    return "".join([*pieces, text[at:]])
