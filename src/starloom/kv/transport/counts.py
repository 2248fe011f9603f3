"""Counters of pools whose blocks are objects in somebody else's store."""

import threading

from starloom.kv.base import PoolStat


class Counts:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lookups = self._hits = self._misses = self._stored = self._rejected = 0

    def looked(self, found: int, asked: int) -> None:
        with self._lock:
            self._lookups += 1
            self._hits += found
            self._misses += asked - found

    def stored(self, count: int, refused: int) -> None:
        with self._lock:
            self._stored += count
            self._rejected += refused

    def stat(self, *, blocks: int, block_bytes: int, connections: int) -> PoolStat:
        """`slots` is 0: how much fits is the other store's affair."""
        with self._lock:
            return PoolStat(
                slots=0,
                slot_bytes=block_bytes,
                blocks=blocks,
                pinned_blocks=0,
                connections=connections,
                lookups=self._lookups,
                hit_blocks=self._hits,
                missed_blocks=self._misses,
                put_blocks=self._stored,
                rejected_blocks=self._rejected,
                evicted_blocks=0,
            )
