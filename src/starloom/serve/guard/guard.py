"""The guard of a site: word lists over what goes into a model and what comes out.

What it does not cover
----------------------
Word lists match words, not meaning. Not caught are paraphrase, synonyms, translation and
misspelling; characters put between (spaces, zero-width marks, punctuation), look-alike letters of
other alphabets, leetspeak, accents written as separate marks; encodings (base64, URL escapes, code
that prints the phrase); text in images or sound; phrases that only several requests together spell.
Word forms are not derived: list plurals, cases and conjugations, both simplified and traditional
Chinese. A phrase in a script without spaces matches anywhere, so a short one also matches inside
longer words. Where a phrase is blocked, what stood before it has been let out already.
Use it for names and terms that must not appear, not as a safety system by itself.
"""

from collections.abc import Sequence
from typing import NamedTuple, Self

from starloom.serve.guard.base import Verdict
from starloom.serve.guard.lists import entries
from starloom.serve.guard.stream import OutputFilter
from starloom.serve.guard.words import Entry, Matcher
from starloom.site import Site

_SLICE_CHARS = 1 << 16


class Checked(NamedTuple):
    """The texts of a request after the guard, and what it found in them."""

    texts: list[str]
    """Masked. Of no use when something was blocked."""
    verdicts: list[Verdict]

    @property
    def blocked(self) -> bool:
        """Whether the request must not go on."""
        return any(verdict.action == "block" for verdict in self.verdicts)


class Guard:
    """Compiled word lists. Immutable after construction; one serves all requests."""

    def __init__(self, inputs: Sequence[Entry], outputs: Sequence[Entry]) -> None:
        self._input = Matcher(inputs) if inputs else None
        if inputs == outputs:
            self._output = self._input
        else:
            self._output = Matcher(outputs) if outputs else None

    @classmethod
    def from_site(cls, site: Site) -> Self:
        """Read and compile the lists of a site. Raises `SiteError`: file, line and fix."""
        return cls(entries(site, "input"), entries(site, "output"))

    def check_input(self, texts: Sequence[str]) -> Checked:
        """Look through the texts that go to a model, up to the first that is blocked."""
        if self._input is None:
            return Checked(list(texts), [])
        checked = Checked([], [])
        for part, text in enumerate(texts):
            reader = OutputFilter(self._input, where="input", part=part)
            slices = range(0, len(text), _SLICE_CHARS)
            pieces = [reader.feed(text[start : start + _SLICE_CHARS]) for start in slices]
            checked.texts.append("".join([*pieces, reader.finish()]))
            checked.verdicts.extend(reader.verdicts)
            if reader.blocked:
                break
        return checked

    def output(self) -> OutputFilter:
        """A filter for one answer."""
        return OutputFilter(self._output)
