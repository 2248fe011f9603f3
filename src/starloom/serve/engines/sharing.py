"""A worker's side of the shared KV pool: it is read and written behind the engine's back."""

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from typing_extensions import Buffer

from starloom.kv.base import Lease, Pool
from starloom.kv.errors import KvError

_log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0
MAX_QUEUED_BYTES = 64 << 20
"""Copies of blocks that wait for the pool; more are not shared."""


class BackOff:
    """Pauses after failures in a row: 0.5 s, doubling up to 10 s."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._pause_s = _FIRST_PAUSE_S
        self._until = 0.0

    @property
    def open(self) -> bool:
        """Whether it is worth a try."""
        return self._clock() >= self._until

    def failed(self) -> None:
        self._until = self._clock() + self._pause_s
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def worked(self) -> None:
        self._pause_s = _FIRST_PAUSE_S


class PoolReader:
    """Looks prefixes up in a thread of its own, since a disk or a node may lie behind the pool.

    The engine's thread asks with `begin`, is woken by `wake`, and takes what came with `ended`. An
    error is a miss.
    """

    def __init__(self, pool: Pool, clock: Callable[[], float]) -> None:
        self.wake: Callable[[], None] = _nobody
        self._pool = pool
        self._back_off = BackOff(clock)
        self._asked: queue.SimpleQueue[_Look | None] = queue.SimpleQueue()
        self._come: deque[_Look] = deque()
        self._looks: dict[str, _Look] = {}
        self._thread = threading.Thread(target=self._run, name="pool-reader", daemon=True)
        self._thread.start()

    def begin(self, name: str, keys: Sequence[bytes]) -> bool:
        """Look up the longest held prefix of `keys`; False where nothing is asked."""
        if not keys or not self._back_off.open:
            return False
        look = self._looks[name] = _Look(name, keys)
        self._asked.put(look)
        return True

    def ended(self) -> list[tuple[str, Lease | None]]:
        """What came since the last call: a pinned prefix, or None for a miss. Release each."""
        come = []
        while self._come:
            look = self._come.popleft()
            if self._looks.get(look.name) is look:
                del self._looks[look.name]
                come.append((look.name, look.lease))
            elif look.lease is not None:
                look.lease.release()
        return come

    def drop(self, name: str) -> None:
        """Nobody waits for it any more."""
        self._looks.pop(name, None)

    def close(self, timeout_s: float = 1.0) -> None:
        """Stop looking; what is asked for is dropped."""
        self._looks.clear()
        self._asked.put(None)
        self._thread.join(timeout_s)
        self.ended()
        self._pool.close()

    def _run(self) -> None:
        while (look := self._asked.get()) is not None:
            if self._looks.get(look.name) is look:
                look.lease = self._lease(look.keys)
            self._come.append(look)
            self.wake()

    def _lease(self, keys: Sequence[bytes]) -> Lease | None:
        try:
            lease = self._pool.get(keys)
        except KvError as error:
            _log.warning("the KV pool is left alone for a while: %s", error)
        except Exception:  # noqa: BLE001 - the thread's edge: who waits must be told
            _log.exception("the KV pool is left alone for a while")
        else:
            self._back_off.worked()
            return lease
        self._back_off.failed()
        return None


@dataclass(slots=True, eq=False)
class _Look:
    name: str
    keys: Sequence[bytes]
    lease: Lease | None = None


class PoolWriter:
    """Puts copies of blocks into the pool from a thread, and takes no more than it may hold."""

    def __init__(
        self, pool: Pool, clock: Callable[[], float], max_bytes: int = MAX_QUEUED_BYTES
    ) -> None:
        self._pool = pool
        self._back_off = BackOff(clock)
        self._max_bytes = max_bytes
        self._queued: list[tuple[bytes, Buffer]] = []
        self._bytes = 0
        """Of blocks queued or being written."""
        self._closed = False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="pool-writer", daemon=True)
        self._thread.start()

    def room(self, block_bytes: int) -> int:
        """How many blocks of that size would be taken now; ask before copying."""
        if not self._back_off.open:
            return 0
        # One block always fits an empty queue, whatever its size.
        return max((self._max_bytes - self._bytes) // block_bytes, not self._bytes)

    def put(self, blocks: Sequence[tuple[bytes, bytes]]) -> None:
        """Queue blocks, prefixes in order. Does not wait."""
        with self._news:
            self._queued += blocks
            self._bytes += sum(len(data) for _, data in blocks)
            self._news.notify()

    def close(self, timeout_s: float = 1.0) -> None:
        """Stop writing; what is queued is dropped."""
        with self._news:
            self._closed = True
            self._news.notify()
        self._thread.join(timeout_s)
        self._pool.close()

    def _run(self) -> None:
        while (blocks := self._next()) is not None:
            if self._back_off.open:
                self._write(blocks)
            with self._news:
                self._bytes -= sum(memoryview(data).nbytes for _, data in blocks)

    def _next(self) -> list[tuple[bytes, Buffer]] | None:
        with self._news:
            self._news.wait_for(lambda: self._queued or self._closed)
            blocks, self._queued = self._queued, []
            return None if self._closed else blocks

    def _write(self, blocks: list[tuple[bytes, Buffer]]) -> None:
        try:
            self._pool.put(blocks)
        except KvError as error:
            self._back_off.failed()
            _log.warning("blocks are not shared for a while: %s", error)
        else:
            self._back_off.worked()


def _nobody() -> None:
    """The engine looks by itself."""
