"""The pool's memory over its SSD: what moves between them, and when.

Down: while a slot class is full, the blocks that its policy gives up next are written ahead of
their eviction, straight from their slots. A block whose turn comes before it is written is dropped
and counted. Up: a `get` that goes on where memory ends has its blocks read into reserved slots; it
is answered when they are there, or with what there is when `wait_s` are over (the rest arrives
behind the answer).

All calls come from the pool's one thread. I/O threads only leave word of what has ended (`fd`
becomes readable), and `tend` acts on it.
"""

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import msgspec

from starloom.kv.arena import Arena
from starloom.kv.base import PoolStat
from starloom.kv.errors import BlockTooLarge
from starloom.kv.ssd.tier import SsdTier
from starloom.kv.store import Store

WAIT_S = 0.15
FETCH_BYTES = 256 << 20
"""One get reads no more than this from disk."""
WRITING = 8
"""Blocks on their way down at one time."""
AHEAD_SHARE, AHEAD_MOST = 8, 256
"""Written ahead of eviction: an eighth of a class, but not more blocks than this."""


@dataclass(slots=True, eq=False)
class Fetch:
    """Blocks on their way up; `over` when all have come or failed."""

    owner: int
    deadline_s: float
    pending: int = 0

    @property
    def over(self) -> bool:
        return not self.pending


class Tiers:
    """Moves blocks between a store's slots and an SSD tier."""

    def __init__(
        self,
        store: Store,
        arena: Arena,
        ssd: SsdTier,
        *,
        wait_s: float = WAIT_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._arena, self._ssd = store, arena, ssd
        self._wait_s = wait_s
        self._clock = clock
        self._owner = store.open()
        self._fetches: dict[bytes, Fetch] = {}
        """Which fetch brings a block."""
        self._owners = 1
        self._ended: deque[Callable[[], None]] = deque()
        self._writing = self._seen = 0
        self._promoted = self._demoted = self._dropped = 0
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        """Readable when there is something for `tend`."""
        store.on_evict = self._evicted

    def longest_prefix(self, keys: Sequence[bytes]) -> int:
        """How many leading keys are held above or below. Changes nothing."""
        found = self._store.longest_prefix(keys)
        while found < len(keys) and self._held(keys[found]):
            found += 1
        return found

    def fetch(self, keys: Sequence[bytes]) -> Fetch | None:
        """Begin to bring up what a `get` of these keys finds below; None when nothing is to come.

        Blocks that another fetch brings already are waited for, not read twice.
        """
        above = self._store.longest_prefix(keys)
        if above == len(keys):
            return None
        if keys[above] in self._fetches:
            return self._fetches[keys[above]]
        wants = [(key, 0) for key in keys[:above]]
        for key in keys[above : self._arena.layout.slots]:
            length = next(iter(self._ssd.lengths([key])), None)
            if length is None and not self._store.longest_prefix([key]):
                break
            wants.append((key, length or 0))
        return self._begin(wants) if len(wants) > above else None

    def tend(self) -> None:
        """Act on the I/O that has ended, then write ahead of eviction what should be."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)
        acted = bool(self._ended)
        while self._ended:
            self._ended.popleft()()
        changed = self._store.changes != self._seen
        if acted or changed:
            self._seen = self._store.changes
            for index in range(len(self._arena.layout.classes)):
                self._write_ahead(index)

    def stat(self) -> PoolStat:
        """The store's counters and the tier's."""
        below, above = self._ssd.stat(), self._store.stat()
        return msgspec.structs.replace(
            above,
            connections=above.connections - self._owners,
            put_blocks=above.put_blocks - self._promoted,
            ssd_slots=below.slots,
            ssd_blocks=below.blocks,
            ssd_hit_blocks=self._promoted,
            demoted_blocks=self._demoted,
            dropped_blocks=self._dropped,
            ssd_evicted_blocks=below.evicted_blocks,
            ssd_bad_blocks=below.bad_blocks,
            ssd_errors=below.errors,
            ssd_healthy=below.healthy,
        )

    def close(self) -> None:
        """End the tier; I/O that does not end keeps what it uses."""
        self._store.on_evict = None
        if self._ssd.close():
            os.close(self.fd)

    def _held(self, key: bytes) -> bool:
        return key in self._ssd or bool(self._store.longest_prefix([key]))

    def _begin(self, wants: Sequence[tuple[bytes, int]]) -> Fetch | None:
        owner = self._store.open()
        try:
            taken = self._store.reserve(owner, wants, FETCH_BYTES)
        except BlockTooLarge:  # written when the site had larger slots
            taken = []
        fetch = Fetch(owner, self._clock() + self._wait_s)
        self._owners += 1
        for position, block in taken:
            key, target = wants[position][0], self._arena.claim(block)
            ended = partial(self._arrived, fetch, key, block.slot)
            if not self._ssd.submit_get(key, target, partial(self._tell, ended)):
                break
            fetch.pending += 1
            self._fetches[key] = fetch
        if fetch.over:
            self._end(fetch)
            return None
        return fetch

    def _tell(self, ended: Callable[[bool], None], ok: bool) -> None:
        """In an I/O thread: leave word."""
        self._ended.append(partial(ended, ok))
        os.eventfd_write(self.fd, 1)

    def _arrived(self, fetch: Fetch, key: bytes, slot: int, ok: bool) -> None:
        if ok:
            self._store.publish(fetch.owner, slot)
            self._promoted += 1
        self._fetches.pop(key, None)
        fetch.pending -= 1
        if fetch.over:
            self._end(fetch)

    def _end(self, fetch: Fetch) -> None:
        self._store.drop(fetch.owner)
        self._owners -= 1

    def _write_ahead(self, index: int) -> None:
        slots = self._arena.layout.classes[index].slots
        ahead = min(AHEAD_MOST, max(1, slots // AHEAD_SHARE))
        while self._writing < WRITING and self._store.free(index) < ahead:
            key = self._store.coldest(index, self._ssd.busy, ahead - self._store.free(index))
            if key is None:
                return
            lease, block = self._store.hold(self._owner, key)
            ended = partial(self._tell, partial(self._written, lease))
            if not self._ssd.submit_put(key, self._arena.view(block), ended):
                self._store.unpin(self._owner, lease)
                return
            self._writing += 1

    def _written(self, lease: int, ok: bool) -> None:
        self._store.unpin(self._owner, lease)
        self._writing -= 1
        self._demoted += ok

    def _evicted(self, key: bytes) -> None:
        if key not in self._ssd:
            self._dropped += 1
