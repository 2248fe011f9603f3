from collections.abc import Iterator

from starloom.kv.policies.base import K, PrefixPolicy


class Sieve(PrefixPolicy[K]):
    """A hand goes from old to new, forgives what was used since it passed, and takes what was not.

    Amortised O(1), no parameter. Source: Y. Zhang et al., "SIEVE is simpler than LRU", NSDI 2024.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._newer: dict[K, K | None] = {}
        self._older: dict[K, K | None] = {}
        self._used: set[K] = set()
        self._oldest: K | None = None
        self._newest: K | None = None
        self._hand: K | None = None

    def _hit(self, key: K) -> None:
        self._used.add(key)

    def _admit(self, key: K) -> None:
        self._newer[key], self._older[key] = None, self._newest
        if self._newest is None:
            self._oldest = key
        else:
            self._newer[self._newest] = key
        self._newest = key

    def _drop(self, key: K) -> None:
        newer, older = self._newer.pop(key), self._older.pop(key)
        if newer is None:
            self._newest = older
        else:
            self._older[newer] = older
        if older is None:
            self._oldest = newer
        else:
            self._newer[older] = newer
        if self._hand == key:
            self._hand = newer
        self._used.discard(key)

    def _order(self) -> Iterator[K]:
        for _ in range(2 * len(self)):
            key = self._oldest if self._hand is None else self._hand
            if key is None:
                return
            if key in self._used:
                self._used.discard(key)
                self._hand = self._newer[key]
            else:
                self._hand = key
                yield key
                self._hand = self._newer[key]  # the caller wants another one: this is pinned
