from collections import OrderedDict
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush

from starloom.kv.policies.base import K, PrefixPolicy

NEVER = 1 << 62


class Belady(PrefixPolicy[K]):
    """Knows the future: gives up the block whose next use is furthest away, of those the deepest.

    The bound. As no block is used more seldom than one behind it, this never breaks a chain. It
    must be touched with exactly the `requests` that it was made of, in their order. O(log n).
    Source: L. Belady, "A study of replacement algorithms for a virtual-storage computer", 1966.
    """

    def __init__(self, capacity: int, requests: Sequence[Sequence[K]]) -> None:
        super().__init__(capacity)
        self._uses = next_uses(requests)
        self._number = -1
        self._rank: dict[K, tuple[int, int]] = {}
        self._heap: list[tuple[int, int, int, K]] = []
        self._serial = 0

    def _begin(self) -> None:
        self._number += 1
        uses = self._uses[self._number]
        for depth, (key, use) in enumerate(zip(self._request, uses, strict=True)):
            rank = self._rank[key] = (-use, -depth)
            self._serial += 1
            heappush(self._heap, (*rank, self._serial, key))

    def _hit(self, key: K) -> None:
        pass

    def _admit(self, key: K) -> None:
        pass

    def _drop(self, key: K) -> None:
        del self._rank[key]

    def _order(self) -> Iterator[K]:
        aside: list[tuple[int, int, int, K]] = []
        try:
            while self._heap:
                use, depth, _, key = top = heappop(self._heap)
                if self._rank.get(key) == (use, depth):
                    aside.append(top)
                    yield key
        finally:
            for top in aside:
                heappush(self._heap, top)


class Returning(PrefixPolicy[K]):
    """Knows only whether a block is ever used again: those that are not go first, else LRU.

    What a perfect answer to "will this conversation go on" is worth, without the question when.
    Touched as `Belady`. O(1).
    """

    def __init__(self, capacity: int, requests: Sequence[Sequence[K]]) -> None:
        super().__init__(capacity)
        self._uses = next_uses(requests)
        self._number = -1
        self._last: set[K] = set()
        self._queues: tuple[OrderedDict[K, None], ...] = (OrderedDict(), OrderedDict())

    def _begin(self) -> None:
        self._number += 1
        uses = zip(self._request, self._uses[self._number], strict=True)
        self._last = {key for key, use in uses if use == NEVER}

    def _hit(self, key: K) -> None:
        self._drop(key)
        self._admit(key)

    def _admit(self, key: K) -> None:
        self._queues[key not in self._last][key] = None

    def _drop(self, key: K) -> None:
        for queue in self._queues:
            queue.pop(key, None)

    def _order(self) -> Iterator[K]:
        for queue in self._queues:
            yield from queue


def next_uses(requests: Sequence[Sequence[K]]) -> list[list[int]]:
    """For each block of each request the number of the next request that uses it, or `NEVER`."""
    last: dict[K, int] = {}
    uses: list[list[int]] = []
    for number in range(len(requests) - 1, -1, -1):
        keys = dict.fromkeys(requests[number])
        uses.append([last.get(key, NEVER) for key in keys])
        last.update(dict.fromkeys(keys, number))
    uses.reverse()
    return uses
