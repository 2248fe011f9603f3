"""A worker's side of the shared KV pool: reads on admission, writes behind its back."""

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext

from typing_extensions import Buffer

from starloom.kv.base import Lease, Pool
from starloom.kv.errors import KvError

_log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0
_WRITE_QUEUE = 64


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
    """Looks blocks up for the engine's own thread. An error is a miss."""

    def __init__(self, pool: Pool, clock: Callable[[], float]) -> None:
        self._pool = pool
        self._back_off = BackOff(clock)

    def lease(self, keys: Sequence[bytes]) -> "Lease | nullcontext[None]":
        """The longest held prefix of `keys`, pinned; a context of None where nothing is gained."""
        if not keys or not self._back_off.open:
            return nullcontext()
        try:
            held = self._pool.longest_prefix(keys)
            lease = self._pool.get(keys[:held]) if held else nullcontext()
        except KvError as error:
            self._back_off.failed()
            _log.warning("the KV pool is left alone for a while: %s", error)
            return nullcontext()
        self._back_off.worked()
        return lease

    def close(self) -> None:
        self._pool.close()


class PoolWriter:
    """Puts copies of blocks into the pool from a thread; drops what a full queue cannot take."""

    def __init__(self, pool: Pool, clock: Callable[[], float], queued: int = _WRITE_QUEUE) -> None:
        self._pool = pool
        self._back_off = BackOff(clock)
        self._queue: queue.Queue[list[tuple[bytes, Buffer]] | None] = queue.Queue(queued)
        self._thread = threading.Thread(target=self._run, name="pool-writer", daemon=True)
        self._thread.start()

    @property
    def open(self) -> bool:
        """Whether a put would be taken: ask before copying."""
        return self._back_off.open and not self._queue.full()

    def put(self, blocks: list[tuple[bytes, Buffer]]) -> None:
        """Queue blocks whose bytes nobody changes any more."""
        try:
            self._queue.put_nowait(blocks)
        except queue.Full:
            _log.debug("%d blocks are not shared: the pool is slower than the engine", len(blocks))

    def close(self, timeout_s: float = 1.0) -> None:
        """Stop writing; what is queued is dropped."""
        while self._thread.is_alive():
            try:
                self._queue.put_nowait(None)
                break
            except queue.Full:
                self._drop_one()
        self._thread.join(timeout_s)
        self._pool.close()

    def _drop_one(self) -> None:
        try:
            self._queue.get_nowait()
        except queue.Empty:
            return

    def _run(self) -> None:
        while (blocks := self._queue.get()) is not None:
            if not self._back_off.open:
                continue
            try:
                self._pool.put(blocks)
            except KvError as error:
                self._back_off.failed()
                _log.warning("blocks are not shared for a while: %s", error)
            else:
                self._back_off.worked()
