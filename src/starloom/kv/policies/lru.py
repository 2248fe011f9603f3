from collections import OrderedDict
from collections.abc import Iterator

from starloom.kv.policies.base import K, Pinned, PrefixPolicy


class Lru(PrefixPolicy[K]):
    """Least recently used. O(1), no parameter. What every engine's own prefix cache does."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._queue: OrderedDict[K, None] = OrderedDict()

    def _hit(self, key: K) -> None:
        self._queue.move_to_end(key)

    def _admit(self, key: K) -> None:
        self._queue[key] = None

    def _drop(self, key: K) -> None:
        del self._queue[key]

    def victim(self, pinned: Pinned[K]) -> K | None:
        return next((key for key in self._order() if not pinned(key)), None)  # always a leaf

    def _order(self) -> Iterator[K]:
        return iter(self._queue)


class Fifo(Lru[K]):
    """First in, first out: uses change nothing. O(1), no parameter."""

    def victim(self, pinned: Pinned[K]) -> K | None:
        return PrefixPolicy.victim(self, pinned)

    def _hit(self, key: K) -> None:
        pass
