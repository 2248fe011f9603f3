from collections import OrderedDict
from collections.abc import Iterator

from starloom.kv.policies.base import K, PrefixPolicy

WINDOW_SHARE = 0.01
PROTECTED_SHARE = 0.8
SAMPLE = 10
"""Uses after which all counts are halved, in capacities."""
MOST_USES = 15


class WTinyLfu(PrefixPolicy[K]):
    """A small LRU window, then a contest by frequency for a place in a segmented LRU.

    Amortised O(1). Parameters are the paper's: a window of 1 %, four fifths of the rest
    protected, counts of 4 bits that are halved after 10 c uses. Counts are exact where the paper
    sketches them, which can only help. Source: G. Einziger, R. Friedman, B. Manes, "TinyLFU: a
    highly efficient cache admission policy", ACM ToS 2017.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._window: OrderedDict[K, None] = OrderedDict()
        self._probation: OrderedDict[K, None] = OrderedDict()
        self._protected: OrderedDict[K, None] = OrderedDict()
        self._window_room = max(1, int(capacity * WINDOW_SHARE))
        self._protected_room = int((capacity - self._window_room) * PROTECTED_SHARE)
        self._counts: dict[K, int] = {}
        self._sampled = 0

    def _hit(self, key: K) -> None:
        self._count(key)
        if key in self._window:
            self._window.move_to_end(key)
            return
        self._probation.pop(key, None)
        self._protected[key] = None
        self._protected.move_to_end(key)
        if len(self._protected) > self._protected_room:
            demoted, _ = self._protected.popitem(last=False)
            self._probation[demoted] = None

    def _admit(self, key: K) -> None:
        self._count(key)
        self._window[key] = None
        if len(self) <= self.capacity and len(self._window) > self._window_room:
            moved, _ = self._window.popitem(last=False)
            self._probation[moved] = None

    def _drop(self, key: K) -> None:
        if self._probation.pop(key, key) is None and len(self._window) > self._window_room:
            winner, _ = self._window.popitem(last=False)
            self._probation[winner] = None
        self._window.pop(key, None)
        self._protected.pop(key, None)

    def _order(self) -> Iterator[K]:
        if len(self._window) > self._window_room and self._probation:
            candidate, defender = next(iter(self._window)), next(iter(self._probation))
            if self._counts.get(candidate, 0) <= self._counts.get(defender, 0):
                yield from self._window
        yield from self._probation
        yield from self._protected
        yield from self._window

    def _count(self, key: K) -> None:
        self._counts[key] = min(self._counts.get(key, 0) + 1, MOST_USES)
        self._sampled += 1
        if self._sampled >= SAMPLE * self.capacity:
            self._counts = {key: count // 2 for key, count in self._counts.items() if count > 1}
            self._sampled //= 2
