"""Beginnings of long texts in which nothing was found before, so that they are not read again.

Chats send their whole past with each turn, and many requests share a long document. Finders say up
to where a text is settled whatever follows (`base.Scan`), so a beginning that was clean once is
clean in every text that begins so; only what follows has to be looked at.
"""

import threading
from collections import OrderedDict
from collections.abc import Sequence

from blake3 import blake3

from starloom.serve.guard.base import CONTEXT_CHARS, Finder

STEP_CHARS = 8192
_KEY_BYTES = 16
_BEGINNINGS = 1 << 16


class CleanBeginnings:
    """Remembers, for beginnings of `STEP_CHARS` and its multiples, up to where they are settled.

    For one set of finders. Threads may share it; bounded, least recently used out first. Keys are
    blake3 of all that came before, so nobody can make two texts look alike.
    """

    def __init__(self, finders: Sequence[Finder], *, limit: int = _BEGINNINGS) -> None:
        self._finders = finders
        self._limit = limit
        self._settled: OrderedDict[bytes, int] = OrderedDict()
        self._lock = threading.Lock()

    def is_clean(self, text: str) -> bool:
        """Whether nothing is found in `text`. False also where a finder must see it whole."""
        hasher = blake3()
        settled = 0
        known = True
        for end in range(STEP_CHARS, len(text), STEP_CHARS):
            hasher.update(text[end - STEP_CHARS : end].encode("utf-8", "surrogatepass"))
            key = hasher.digest(_KEY_BYTES)
            if known and (before := self._recall(key)) is not None:
                settled = before
                continue
            known = False
            further = self._look(text[:end], settled, final=False)
            if further is None:
                return False
            settled = further
            self._note(key, settled)
        return self._look(text, settled, final=True) is not None

    def _look(self, text: str, settled: int, *, final: bool) -> int | None:
        """Up to where the text is settled now; None when something was found."""
        context = max(settled - CONTEXT_CHARS, 0)
        shown, begin = text[context:], settled - context
        least = len(shown)
        for finder in self._finders:
            scan = finder.scan(shown, begin, final=final)
            if scan.found:
                return None
            least = min(least, scan.settled)
        return context + least

    def _recall(self, key: bytes) -> int | None:
        with self._lock:
            settled = self._settled.get(key)
            if settled is not None:
                self._settled.move_to_end(key)
            return settled

    def _note(self, key: bytes, settled: int) -> None:
        with self._lock:
            self._settled[key] = settled
            if len(self._settled) > self._limit:
                self._settled.popitem(last=False)
