from collections import OrderedDict
from collections.abc import Iterator

from starloom.kv.policies.base import K, PrefixPolicy

SMALL_SHARE = 0.1
MOST_USES = 3


class S3Fifo(PrefixPolicy[K]):
    """New blocks pass a small queue first; only those used in it reach the main one.

    Amortised O(1). Parameters are the paper's: a tenth for the small queue, two uses to leave it
    for the main one, counts up to 3, ghosts for as many blocks as the main queue has. Source:
    J. Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._small: OrderedDict[K, None] = OrderedDict()
        self._main: OrderedDict[K, None] = OrderedDict()
        self._ghosts: OrderedDict[K, None] = OrderedDict()
        self._uses: dict[K, int] = {}
        self._small_room = max(1, int(capacity * SMALL_SHARE))

    def _hit(self, key: K) -> None:
        self._uses[key] = min(self._uses[key] + 1, MOST_USES)

    def _admit(self, key: K) -> None:
        queue = self._small
        if key in self._ghosts:
            del self._ghosts[key]
            queue = self._main
        queue[key] = None
        self._uses[key] = 0

    def _drop(self, key: K) -> None:
        del self._uses[key]
        if key in self._main:
            del self._main[key]
            return
        del self._small[key]
        self._ghosts[key] = None
        if len(self._ghosts) > self.capacity - self._small_room:
            self._ghosts.popitem(last=False)

    def _order(self) -> Iterator[K]:
        while self._small or self._main:
            if len(self._small) >= self._small_room or not self._main:
                key = next(iter(self._small))
                if self._uses[key] > 1:
                    del self._small[key]
                    self._main[key] = None
                    self._uses[key] = 0
                    continue
            else:
                key = next(iter(self._main))
                if self._uses[key] > 0:
                    self._uses[key] -= 1
                    self._main.move_to_end(key)
                    continue
            yield key
            break
        yield from self._small  # the first choice is pinned
        yield from self._main
