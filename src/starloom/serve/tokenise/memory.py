"""Pieces of text and their tokens, least recently used out first, bounded in bytes."""

from __future__ import annotations

import sys
import threading
from array import array
from collections import OrderedDict

_ENTRY_BYTES = 300  # the key's tuple, the array's header and the table's slot


class SegmentMemory:
    """What was tokenised before. Threads may share it."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._entries: OrderedDict[tuple[str, bool], array[int]] = OrderedDict()
        self._lock = threading.Lock()
        self.bytes = 0
        self.hits = 0
        self.misses = 0

    def get(self, key: tuple[str, bool]) -> array[int] | None:
        with self._lock:
            ids = self._entries.get(key)
            if ids is None:
                self.misses += 1
                return None
            self.hits += 1
            self._entries.move_to_end(key)
            return ids

    def put(self, key: tuple[str, bool], ids: array[int]) -> None:
        size = _size(key, ids)
        if size > self._limit_bytes // 4:
            return  # one text must not push everything else out
        with self._lock:
            if key in self._entries:
                return
            self._entries[key] = ids
            self.bytes += size
            while self.bytes > self._limit_bytes:
                self.bytes -= _size(*self._entries.popitem(last=False))


def _size(key: tuple[str, bool], ids: array[int]) -> int:
    return sys.getsizeof(key[0]) + ids.itemsize * len(ids) + _ENTRY_BYTES
