from collections import OrderedDict
from collections.abc import Iterator

from starloom.kv.policies.base import K, PrefixPolicy

LEVELS = 8
GHOSTS = 4
"""Remembered counts, in capacities."""


class Mq(PrefixPolicy[K]):
    """Eight LRU queues by the logarithm of the count of uses; who is not used in time, descends.

    O(1) amortised over the levels. Made for second-level caches, such as a pool under the HBM.
    Parameter: `life_blocks`, how many uses of any block a block keeps its level for, by default
    the capacity. Counts of 4 c blocks that went are remembered. Source: Y. Zhou, J. Philbin,
    K. Li, "The multi-queue replacement algorithm for second level buffer caches", ATC 2001.
    """

    def __init__(self, capacity: int, life_blocks: int | None = None) -> None:
        super().__init__(capacity)
        self._life = life_blocks or capacity
        self._now = 0
        self._queues: list[OrderedDict[K, int]] = [OrderedDict() for _ in range(LEVELS)]
        self._uses: dict[K, int] = {}
        self._level: dict[K, int] = {}
        self._ghosts: OrderedDict[K, int] = OrderedDict()

    def _begin(self) -> None:
        for level in range(LEVELS - 1, 0, -1):
            queue = self._queues[level]
            while queue:
                key, expires = next(iter(queue.items()))
                if expires >= self._now:
                    break
                del queue[key]
                self._enter(key, level - 1)

    def _hit(self, key: K) -> None:
        del self._queues[self._level[key]][key]
        self._count(key, self._uses[key] + 1)

    def _admit(self, key: K) -> None:
        self._count(key, self._ghosts.pop(key, 0) + 1)

    def _count(self, key: K, uses: int) -> None:
        self._now += 1
        self._uses[key] = uses
        self._enter(key, min(LEVELS - 1, uses.bit_length() - 1))

    def _enter(self, key: K, level: int) -> None:
        self._level[key] = level
        self._queues[level][key] = self._now + self._life

    def _drop(self, key: K) -> None:
        del self._queues[self._level.pop(key)][key]
        self._ghosts[key] = self._uses.pop(key)
        if len(self._ghosts) > GHOSTS * self.capacity:
            self._ghosts.popitem(last=False)

    def _order(self) -> Iterator[K]:
        for queue in self._queues:
            yield from queue
