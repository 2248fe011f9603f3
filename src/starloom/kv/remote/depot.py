"""The blocks of a node: the pool's own store, arena and SSD tier, behind one lock.

Whatever changes the index holds the lock and is short; bytes move without it, into reserved and out
of pinned slots. Blocks lie under keys of their tenant's namespace, and their sums, made by whoever
put them, beside them: what came back from disk is summed again when it is first asked for.
"""

import logging
import select
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from starloom.kv.arena import Arena
from starloom.kv.base import PoolStat
from starloom.kv.layout import Layout, SlotClass
from starloom.kv.policies import Lru, NewPolicy
from starloom.kv.remote import frames
from starloom.kv.remote.base import TenantStat
from starloom.kv.remote.frames import Row
from starloom.kv.ssd import SsdTier
from starloom.kv.store import Store
from starloom.kv.tiers import WAIT_S, Tiers

_TEND_S = 1.0
STUCK_S = 10.0
_SWEEP = 2000
_log = logging.getLogger("starloom.kv.remote")


@dataclass(frozen=True, slots=True)
class Held:
    """Pinned blocks, ready to be sent."""

    rows: list[Row]
    views: list[memoryview]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A reserved slot: which of the offers it is for, and where its bytes belong."""

    position: int
    slot: int
    generation: int
    target: memoryview


class Depot:
    """Thread-safe. `open` an owner a connection, and `drop` it when it has gone."""

    def __init__(
        self,
        classes: Sequence[SlotClass],
        *,
        policy: NewPolicy = Lru,
        ssd: SsdTier | None = None,
        ssd_wait_s: float = WAIT_S,
        ssd_lost: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes the memory. Raises `NoSharedMemory` and OSError."""
        self.layout = Layout(classes)
        self._clock = clock
        self._arena = Arena(self.layout, share=False)
        self._store = Store(self.layout, policy, clock)
        self._store.ssd_lost = ssd_lost
        self._tiers = Tiers(self._store, self._arena, ssd, wait_s=ssd_wait_s) if ssd else None
        self._lock = threading.Condition()
        self._sums: dict[int, tuple[int, int]] = {}
        """Slot: its generation and the block's sum."""
        self._unread: dict[bytes, TenantStat] = {}
        self._evict_below = self._store.on_evict
        self._store.on_evict = self._evicted
        self._closed = False
        self._tended_s = clock()
        self._tender: threading.Thread | None = None
        if self._tiers is not None:
            self._tender = threading.Thread(
                target=self._tend, args=(self._tiers,), name="kv-tend", daemon=True
            )
            self._tender.start()

    def open(self) -> int:
        with self._lock:
            return self._store.open()

    def drop(self, owner: int) -> None:
        with self._lock:
            self._store.drop(owner)

    def lengths(self, keys: Sequence[bytes]) -> list[int]:
        """Bytes of each of the leading blocks that are held, above or below. Renews nothing."""
        with self._lock:
            return (self._tiers or self._store).lengths(keys)

    @contextmanager
    def held(
        self,
        owner: int,
        keys: Sequence[bytes],
        outer: Sequence[bytes],
        most_bytes: int,
        counts: TenantStat,
    ) -> Iterator[Held]:
        """The leading blocks, pinned while in the context: up to `most_bytes` of them.

        `keys` are those of the store, `outer` the same ones as the peer says them.
        """
        with self._lock:
            lengths = (self._tiers or self._store).lengths(keys)
            counts.missed_blocks += len(keys) - len(lengths)
            keys = keys[: _within(lengths, most_bytes)]
            above = self._store.longest_prefix(keys)
            self._bring_up(keys)
            lease, blocks = self._store.pin(owner, keys)
            for key in keys[: len(blocks)]:
                self._unread.pop(key, None)
            sums = [self._sums.get(block.slot, (-1, 0)) for block in blocks]
            counts.memory_hit_blocks += min(above, len(blocks))
            counts.ssd_hit_blocks += max(0, len(blocks) - above)
            counts.missed_blocks += len(keys) - len(blocks)
            counts.got_bytes += sum(block.length for block in blocks)
        try:
            views = [self._arena.view(block) for block in blocks]
            rows = []
            for key, block, view, (generation, known) in zip(
                outer, blocks, views, sums, strict=False
            ):
                now = known if generation == block.generation else frames.block_sum(key, view)
                self._sums[block.slot] = (block.generation, now)
                rows.append(Row(block.length, now))
            yield Held(rows, views)
        finally:
            with self._lock:
                if lease:
                    self._store.unpin(owner, lease)

    def reserve(
        self, owner: int, wants: Sequence[tuple[bytes, int]], most_bytes: int
    ) -> list[Wanted]:
        """Slots for the blocks (key, size) that are neither held nor on their way.

        Raises `BlockTooLarge` and `PoolProtocolError`.
        """
        with self._lock:
            taken = self._store.reserve(owner, wants, most_bytes)
            return [
                Wanted(position, block.slot, block.generation, self._arena.claim(block))
                for position, block in taken
            ]

    def publish(
        self,
        owner: int,
        wants: Sequence[tuple[bytes, int]],
        good: Sequence[tuple[Wanted, int]],
        bad: int,
        counts: TenantStat,
    ) -> None:
        """End the owner's put: blocks with their sums are found from now on, the rest is not."""
        with self._lock:
            for wanted, sum_ in good:
                self._sums[wanted.slot] = (wanted.generation, sum_)
                self._store.publish(owner, wanted.slot)
                self._unread[wants[wanted.position][0]] = counts
                counts.put_blocks += 1
                counts.put_bytes += len(wanted.target)
            counts.bad_blocks += bad
            self._store.finish(owner)
            if self._tiers is not None:
                self._tiers.tend()

    def stat(self) -> PoolStat:
        with self._lock:
            return (self._tiers or self._store).stat()

    def why_ill(self) -> str:
        """What does not work; empty when all does."""
        if self._tender is not None and not self._closed:
            if not self._tender.is_alive():
                return "the thread that moves blocks between memory and disk has died"
            if self._clock() - self._tended_s > STUCK_S:
                return f"nothing moved between memory and disk for {STUCK_S:g} s"
        if not self.stat().ssd_healthy:
            return "the SSD tier does not work: see the log"
        return ""

    def sweep(self) -> None:
        """Count some of the blocks that left the disk without having been read."""
        with self._lock:
            if self._tiers is None:
                return
            for key in list(islice(self._unread, _SWEEP)):
                counts = self._unread.pop(key)
                if self._tiers.longest_prefix([key]):
                    self._unread[key] = counts  # at the end: others are looked at next time
                else:
                    counts.never_read_blocks += 1

    def close(self) -> None:
        """No owner may be in a call."""
        with self._lock:
            self._closed = True
        if self._tender is not None:
            self._tender.join(2 * _TEND_S)
        if self._tiers is not None:
            self._tiers.close()
        self._arena.close()

    def _bring_up(self, keys: Sequence[bytes]) -> None:
        """Under the lock, which is free while the disk reads."""
        fetch = self._tiers.fetch(keys) if self._tiers else None
        while fetch is not None and not fetch.over:
            left_s = fetch.deadline_s - time.monotonic()
            if left_s <= 0 or not self._lock.wait(left_s):
                return

    def _evicted(self, key: bytes) -> None:
        if self._evict_below is not None:
            self._evict_below(key)
        counts = self._unread.get(key)
        if counts is not None and not (self._tiers and self._tiers.below(key)):
            del self._unread[key]
            counts.never_read_blocks += 1

    def _tend(self, tiers: Tiers) -> None:
        """The thread that acts on what the disk has done. Its death shows in `why_ill`."""
        poller = select.poll()
        poller.register(tiers.fd, select.POLLIN)
        while True:
            poller.poll(_TEND_S * 1000)
            with self._lock:
                if self._closed:
                    return
                tiers.tend()
                self._tended_s = self._clock()
                self._lock.notify_all()


def _within(lengths: Sequence[int], most_bytes: int) -> int:
    """How many leading blocks fit."""
    total = 0
    for count, length in enumerate(lengths):
        total += length
        if total > most_bytes:
            return count
    return len(lengths)
