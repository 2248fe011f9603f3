from collections import OrderedDict
from collections.abc import Iterator

from starloom.kv.policies.base import K, PrefixPolicy


class Lfu(PrefixPolicy[K]):
    """Least often used since it came, among those the one used longest ago. O(1), no parameter.

    Source: K. Shah, A. Mitra, D. Matani, "An O(1) algorithm for implementing the LFU cache
    eviction scheme", 2010.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._uses: dict[K, int] = {}
        self._queues: dict[int, OrderedDict[K, None]] = {}

    def _hit(self, key: K) -> None:
        self._leave(key)
        self._enter(key, self._uses[key] + 1)

    def _admit(self, key: K) -> None:
        self._enter(key, 1)

    def _drop(self, key: K) -> None:
        self._leave(key)
        del self._uses[key]

    def _order(self) -> Iterator[K]:
        for uses in sorted(self._queues):  # few: as many as there are different counts
            yield from self._queues[uses]

    def _enter(self, key: K, uses: int) -> None:
        self._uses[key] = uses
        self._queues.setdefault(uses, OrderedDict())[key] = None

    def _leave(self, key: K) -> None:
        queue = self._queues[self._uses[key]]
        del queue[key]
        if not queue:
            del self._queues[self._uses[key]]
