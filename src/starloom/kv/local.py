"""A pool inside one process: the same store and arena, without a socket."""

import threading
from collections.abc import Sequence
from functools import partial

from typing_extensions import Buffer

from starloom.kv.arena import Arena
from starloom.kv.base import Lease, PoolStat
from starloom.kv.errors import PoolUnavailable
from starloom.kv.layout import Layout, SlotClass
from starloom.kv.lease import ArenaLease
from starloom.kv.policies import Lru, NewPolicy
from starloom.kv.protocol import check_keys
from starloom.kv.store import Store


class LocalPool:
    """A `Pool` for the threads of one process. Calls run one after the other."""

    def __init__(self, classes: Sequence[SlotClass], policy: NewPolicy = Lru) -> None:
        layout = Layout(classes)
        self._arena: Arena | None = Arena(layout, share=False)
        self._store = Store(layout, policy)
        self._owner = self._store.open()
        self._lock = threading.Lock()

    def longest_prefix(self, keys: Sequence[bytes]) -> int:
        check_keys(keys)
        with self._lock:
            self._open_arena()
            return self._store.longest_prefix(keys)

    def get(self, keys: Sequence[bytes]) -> Lease:
        check_keys(keys)
        with self._lock:
            arena = self._open_arena()
            lease, blocks = self._store.pin(self._owner, keys)
        views = [arena.view(block) for block in blocks]
        return ArenaLease(views, blocks, arena.generations, partial(self._unpin, lease))

    def put(self, blocks: Sequence[tuple[bytes, Buffer]]) -> int:
        data = [flat(block) for _, block in blocks]
        wants = [(key, len(each)) for (key, _), each in zip(blocks, data, strict=True)]
        check_keys([key for key, _ in wants])
        with self._lock:
            arena = self._open_arena()
            taken = self._store.reserve(self._owner, wants, sum(map(len, data)))
            for position, block in taken:
                arena.claim(block)[:] = data[position]
                self._store.publish(self._owner, block.slot)
            self._store.finish(self._owner)
        return len(taken)

    def stat(self) -> PoolStat:
        with self._lock:
            self._open_arena()
            return self._store.stat()

    def close(self) -> None:
        """Forget all blocks. Views that are still held stay readable."""
        with self._lock:
            self._arena = None

    def _open_arena(self) -> Arena:
        if self._arena is None:
            raise PoolUnavailable("the pool is closed")
        return self._arena

    def _unpin(self, lease: int) -> None:
        with self._lock:
            if lease and self._arena is not None:
                self._store.unpin(self._owner, lease)


def flat(block: Buffer) -> memoryview:
    """The bytes of a block as one row. Raises TypeError for one that is not contiguous."""
    view = memoryview(block)
    return view.cast("B") if view.nbytes else memoryview(b"")
