"""The guard at the way out: what an engine says passes here before a client sees it."""

from collections.abc import Callable

from starloom.serve.base import Delta, TokenLogprob, Usage
from starloom.serve.guard import Guard, OutputFilter, Verdict


class Outlets:
    """The guard of one answer, which may have many texts. `note` is told what stands in each."""

    def __init__(
        self, guard: Guard, prompt_tokens: int, note: Callable[[list[Verdict]], None]
    ) -> None:
        self._guard = guard
        self._prompt_tokens = prompt_tokens
        self._note = note
        self.is_clean = guard.is_clean_output
        """Whether a whole text may go out as it is: then it needs no outlet."""

    def make(self) -> "Outlet":
        """The outlet of one text."""
        return Outlet(self._guard.output(), self._prompt_tokens, self._note)


class Outlet:
    """One sequence's output. Log probabilities wait for their text, and go when it is changed.

    They spell the tokens, so they must not tell what the filter holds back, masks or blocks.
    """

    def __init__(
        self,
        output: OutputFilter,
        prompt_tokens: int,
        note: Callable[[list[Verdict]], None],
    ) -> None:
        self._filter = output
        self._note = note
        self._prompt_tokens = prompt_tokens
        self._tokens = 0
        self._held = ""
        self._waiting: list[TokenLogprob] = []
        self._changed = False

    @property
    def held_chars(self) -> int:
        """How much is held back for what may follow."""
        return self._filter.held_chars

    def let_out(self, delta: Delta) -> Delta:
        """What may be seen of `delta`; its `finish` tells when the filter ends the answer."""
        self._tokens += delta.tokens
        text = self._filter.feed(delta.text) if delta.text else ""
        if delta.finish is not None and not self._filter.blocked:
            text += self._filter.finish()
        delta.logprobs = self._logprobs(delta, text)
        delta.text = text
        if self._filter.blocked:
            delta.finish = "content_filter"
            delta.logprobs = []
            delta.stop = None
            if delta.usage is None:
                delta.usage = Usage(
                    prompt_tokens=self._prompt_tokens, completion_tokens=self._tokens
                )
        return delta

    def close(self) -> None:
        """The answer is over: tell what was found in it."""
        self._note(self._filter.verdicts)

    def _logprobs(self, delta: Delta, text: str) -> list[TokenLogprob]:
        self._held += delta.text
        if self._changed or not self._held.startswith(text):
            self._changed = True
            self._waiting.clear()
            self._held = ""
            return []
        self._held = self._held[len(text) :]
        self._waiting.extend(delta.logprobs)
        if self._held:
            return []
        free, self._waiting = self._waiting, []
        return free
