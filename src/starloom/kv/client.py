"""The pool as a worker sees it: a `Pool` behind a Unix socket.

One connection, made when first needed. Every call ends within `timeout_s`, whatever the server
does. A call that fails drops the connection (its answer may come late and must never be taken for
the next one's); then calls fail at once for a short while that doubles with each failure, so that a
dead pool costs its callers next to nothing. What leases of a lost connection are worth, see
`starloom.kv.lease`.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from typing_extensions import Buffer

from starloom.kv.base import Lease, PoolStat
from starloom.kv.channel import Deadline
from starloom.kv.errors import BlockTooLarge, PoolProtocolError, PoolUnavailable
from starloom.kv.lease import ArenaLease
from starloom.kv.local import flat
from starloom.kv.protocol import MAX_KEYS, check_keys
from starloom.kv.wire import Wire

FIRST_BACKOFF_S = 0.1
LAST_BACKOFF_S = 2.0
PUT_ROUND_BYTES = 16 << 20
"""A put goes in rounds of this size, so that other threads' calls are answered in between."""


class PoolClient:
    """A `Pool` on the other side of a socket. Thread-safe."""

    def __init__(
        self, socket_path: Path, timeout_s: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = socket_path
        self._timeout_s = timeout_s
        self._clock = clock
        self._lock = threading.Lock()
        self._wire: Wire | None = None
        self._pid = os.getpid()
        self._closed = False
        self._failures = 0
        self._retry_at = 0.0
        self._released: deque[tuple[Wire, int]] = deque()

    def longest_prefix(self, keys: Sequence[bytes]) -> int:
        """How many leading `keys` are held; looks at the first 65,536."""
        check_keys(keys)
        deadline = self._deadline()
        with self._exchange(deadline) as wire:
            return wire.lookup(keys[:MAX_KEYS], deadline)

    def get(self, keys: Sequence[bytes]) -> Lease:
        """Pin the longest held prefix of the first 65,536 `keys`."""
        check_keys(keys)
        deadline = self._deadline()
        with self._exchange(deadline) as wire:
            lease, blocks = wire.get(keys[:MAX_KEYS], deadline)
            try:
                views = wire.arena.views(blocks)
            except IndexError as error:
                raise PoolProtocolError(str(error)) from error
        return ArenaLease(
            views, blocks, wire.arena.generations, partial(self._release, wire, lease)
        )

    def put(self, blocks: Sequence[tuple[bytes, Buffer]]) -> int:
        """Store what is not held yet; when time runs short the tail is left out.

        Give the whole sequence, held blocks too: they cost 40 bytes each, and nothing of the
        sequence is then evicted to make room for its own tail.
        """
        deadline = self._deadline()
        offered = [(key, flat(data)) for key, data in blocks[:MAX_KEYS]]
        check_keys([key for key, _ in offered])
        stored, last, slowest_s = 0, -1, 0.0
        while True:
            began = self._clock()
            with self._exchange(deadline) as wire:
                for _, data in offered:
                    wire.arena.layout.class_for(len(data))
                positions = wire.put(offered, PUT_ROUND_BYTES, deadline)
            stored += len(positions)
            slowest_s = max(slowest_s, self._clock() - began)
            if not positions or positions[0] <= last or positions[-1] == len(offered) - 1:
                return stored
            last = positions[-1]
            if deadline.rest_s() < 2 * slowest_s:
                return stored

    def stat(self) -> PoolStat:
        deadline = self._deadline()
        with self._exchange(deadline) as wire:
            return wire.stat(deadline)

    def close(self) -> None:
        """Give the connection back, and with it all pins. Later calls raise `PoolUnavailable`."""
        with self._lock:
            self._closed = True
            self._drop()

    def _deadline(self) -> Deadline:
        return Deadline(self._clock, self._timeout_s)

    @contextmanager
    def _exchange(self, deadline: Deadline) -> Iterator[Wire]:
        """The connection for one question and its answer, and nobody else's meanwhile."""
        if not self._lock.acquire(timeout=deadline.rest_s()):
            raise PoolUnavailable(f"{self._path}: other calls took all of {self._timeout_s} s")
        try:
            with self._failing():
                wire = self._connected(deadline)
                self._send_releases(deadline)
                yield wire
                self._failures = 0
        finally:
            self._lock.release()
            self._flush()

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Under the lock: end the connection on any error, and name it as the contract does."""
        try:
            yield
        except (BlockTooLarge, PoolUnavailable):
            raise  # found before anything was sent
        except (OSError, PoolProtocolError) as error:
            self._drop()
            self._failures += 1
            backoff_s = min(LAST_BACKOFF_S, FIRST_BACKOFF_S * 2 ** min(self._failures - 1, 10))
            self._retry_at = self._clock() + backoff_s
            raise PoolUnavailable(f"{self._path}: {error}") from error
        except BaseException:  # such as KeyboardInterrupt in the middle of an answer
            self._drop()
            raise

    def _connected(self, deadline: Deadline) -> Wire:
        if self._closed:
            raise PoolUnavailable(f"{self._path}: this client is closed")
        if self._pid != os.getpid():  # a fork: the connection is the parent's
            self._pid = os.getpid()
            self._drop()
        if self._wire is None:
            wait_s = self._retry_at - self._clock()
            if self._failures and wait_s > 0:
                raise PoolUnavailable(f"{self._path}: lost; next try in {wait_s:.2f} s")
            self._wire = Wire.open(self._path, deadline)
        return self._wire

    def _drop(self) -> None:
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def _release(self, wire: Wire, lease: int) -> None:
        """Queue it, then send it, unless another thread is in a call: that one sends it then.

        Never raises: pins of a lost connection are gone anyhow.
        """
        if lease:
            self._released.append((wire, lease))
            self._flush()

    def _flush(self) -> None:
        while self._released and self._lock.acquire(blocking=False):
            try:
                with self._failing():
                    self._send_releases(self._deadline())
            except PoolUnavailable:
                pass  # the connection is dropped; the next call says so
            finally:
                self._lock.release()

    def _send_releases(self, deadline: Deadline) -> None:
        leases = []
        while self._released:
            wire, lease = self._released.popleft()
            if wire is self._wire:
                leases.append(lease)
        if leases and self._wire is not None:
            self._wire.release(leases, deadline)
