"""Which blocks a worker is believed to hold: what it was sent, least recently used out first."""

from collections import OrderedDict
from collections.abc import Sequence


class PrefixIndex:
    """Keys of at most `capacity` blocks. A key covers its whole prefix, so one look finds it."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._keys: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._keys)

    def overlap(self, keys: Sequence[bytes]) -> int:
        """How many leading `keys` are held. Reads only."""
        for at, key in enumerate(keys):
            if key not in self._keys:
                return at
        return len(keys)

    def add(self, keys: Sequence[bytes]) -> None:
        """The worker will hold these. Touched tail first, so that a prefix outlives its tail."""
        for key in reversed(keys):
            self._keys[key] = None
            self._keys.move_to_end(key)
        while len(self._keys) > self._capacity:
            self._keys.popitem(last=False)

    def clear(self) -> None:
        self._keys.clear()
