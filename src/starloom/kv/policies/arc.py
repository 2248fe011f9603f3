from collections import OrderedDict
from collections.abc import Iterator, Sequence

from starloom.kv.policies.base import K, PrefixPolicy


class Arc(PrefixPolicy[K]):
    """Two LRU queues, for blocks used once and more often; ghosts of each move their border.

    O(1), no parameter. Source: N. Megiddo, D. Modha, "ARC: a self-tuning, low overhead
    replacement cache", FAST 2003. Blocks of one request do not count as used twice.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._once: OrderedDict[K, None] = OrderedDict()
        self._often: OrderedDict[K, None] = OrderedDict()
        self._once_ghosts: OrderedDict[K, None] = OrderedDict()
        self._often_ghosts: OrderedDict[K, None] = OrderedDict()
        self._target = 0.0
        """How many blocks used once are wanted: the paper's p."""

    def _hit(self, key: K) -> None:
        if key in self._often:
            self._often.move_to_end(key)
        else:
            del self._once[key]
            self._often[key] = None

    def _admit(self, key: K) -> None:
        once, often = len(self._once_ghosts), len(self._often_ghosts)
        if key in self._once_ghosts:
            self._target = min(self._target + max(1.0, often / once), self.capacity)
            del self._once_ghosts[key]
            self._often[key] = None
        elif key in self._often_ghosts:
            self._target = max(self._target - max(1.0, once / often), 0.0)
            del self._often_ghosts[key]
            self._often[key] = None
        else:
            self._once[key] = None

    def _drop(self, key: K) -> None:
        if key in self._once:
            del self._once[key]
            self._once_ghosts[key] = None
        else:
            del self._often[key]
            self._often_ghosts[key] = None
        while self._once_ghosts and len(self._once) + len(self._once_ghosts) > self.capacity:
            self._once_ghosts.popitem(last=False)
        while self._often_ghosts and self._ghosts() + len(self) > 2 * self.capacity:
            self._often_ghosts.popitem(last=False)

    def _ghosts(self) -> int:
        return len(self._once_ghosts) + len(self._often_ghosts)

    def _order(self) -> Iterator[K]:
        first: Sequence[OrderedDict[K, None]] = (self._once, self._often)
        if len(self._once) <= self._target and self._often:
            first = (self._often, self._once)
        for queue in first:
            yield from queue
