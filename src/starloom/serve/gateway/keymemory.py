"""Block keys of prompts, remembered: hashing a long prompt block by block is most of its cost."""

import threading
from collections import OrderedDict

from blake3 import blake3

from starloom.kv.keys import data_keys

_STRETCH_BLOCKS = 64


class KeyMemory:
    """The same keys, remembered by stretches of 64 blocks.

    A prompt that begins as an earlier one did costs a hash a stretch there, not one a block. A
    stretch is known by the key before it and the hash of its bytes. Bounded, least recently used
    out first; threads may share it.
    """

    def __init__(self, *, stretches: int = 4096) -> None:
        self._limit = stretches
        self._known: OrderedDict[tuple[bytes, int, bytes], tuple[bytes, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def data_keys(self, root: bytes, data: bytes, block_bytes: int) -> list[bytes]:
        """As the function of that name."""
        step = block_bytes * _STRETCH_BLOCKS
        keys: list[bytes] = []
        parent = root
        view = memoryview(data)
        for start in range(0, len(data) - step + 1, step):
            stretch = view[start : start + step]
            name = (parent, block_bytes, blake3(stretch).digest())
            with self._lock:
                known = self._known.get(name)
                if known is not None:
                    self._known.move_to_end(name)
            if known is None:
                known = tuple(data_keys(parent, bytes(stretch), block_bytes))
                with self._lock:
                    self._known[name] = known
                    if len(self._known) > self._limit:
                        self._known.popitem(last=False)
            keys += known
            parent = known[-1]
        rest = len(keys) * block_bytes
        return keys + data_keys(parent, data[rest:], block_bytes)
