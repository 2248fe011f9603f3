"""Nodes below a pool's memory and disk: what `starloom.kv.tiers` asks, threads do.

It stands in the pool's process and not in its workers: a host then fetches a block once, straight
into the slot that all its workers read; what they put leaves from the slot that it lies in; one
queue bounds it all; and no worker, which is where the engine's steps run, has a thread for it.
"""

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from starloom.kv.errors import KvError
from starloom.kv.remote.pool import RemotePool

READERS, WRITERS = 4, 2
DEPTH = 64
_Job = Callable[[], None]
_T = TypeVar("_T")
_log = logging.getLogger("starloom.kv.remote")


class RemoteTier:
    """The `Afar` of `Tiers`. Each job ends within the remote pool's `timeout_s`."""

    def __init__(
        self,
        pool: RemotePool,
        *,
        readers: int = READERS,
        writers: int = WRITERS,
        depth: int = DEPTH,
    ) -> None:
        self._pool = pool
        self._reads = _Desk("kv-afar-get", readers, depth)
        self._writes = _Desk("kv-afar-put", writers, depth)

    def submit_lookup(self, keys: Sequence[bytes], done: Callable[[list[int]], None]) -> bool:
        """Refused while no node is up: a dead network costs nothing."""

        def look() -> None:
            lengths: list[int] = []
            try:
                lengths = _tried(lambda: self._pool.lengths(keys), [])
            finally:
                done(lengths)

        return any(self._pool.ups()) and self._reads.take(look)

    def submit_get(
        self,
        keys: Sequence[bytes],
        targets: Sequence[memoryview],
        each: Callable[[int], None],
        done: Callable[[], None],
    ) -> bool:
        def read() -> None:
            try:
                _tried(lambda: self._pool.get_into(keys, targets, each), 0)
            finally:
                done()

        return self._reads.take(read)

    def submit_put(
        self, blocks: Sequence[tuple[bytes, memoryview]], done: Callable[[int | None], None]
    ) -> bool:
        def write() -> None:
            stored: int | None = None
            try:
                stored = _tried(lambda: self._pool.put(blocks, skip_large=True), None)
            finally:
                done(stored)

        return any(self._pool.ups()) and self._writes.take(write)

    def nodes_up(self) -> tuple[int, int]:
        ups = self._pool.ups()
        return sum(ups), len(ups)

    def healthy(self) -> bool:
        return self._reads.whole and self._writes.whole

    def close(self, timeout_s: float = 5.0) -> bool:
        """End the threads; False when one of them does not end in time."""
        self._pool.close()
        ended = [desk.close(timeout_s) for desk in (self._reads, self._writes)]
        return all(ended)


class _Desk:
    """A bounded queue of jobs and the threads that do them."""

    def __init__(self, name: str, threads: int, depth: int) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._depth = depth
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=name, daemon=True) for _ in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def whole(self) -> bool:
        """Whether no thread has died."""
        return all(thread.is_alive() for thread in self._threads)

    def take(self, job: _Job) -> bool:
        """Called by one thread at a time. False where there is no room."""
        if self._closed or self._jobs.qsize() >= self._depth:
            return False
        self._jobs.put(job)
        return True

    def close(self, timeout_s: float) -> bool:
        self._closed = True
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(timeout_s)
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()


def _tried(ask: Callable[[], _T], otherwise: _T) -> _T:
    """What the nodes say; what goes wrong is a miss, and the circuits know of it."""
    try:
        return ask()
    except KvError as error:
        _log.debug("the nodes: %s", error)
        return otherwise
