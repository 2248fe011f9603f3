"""The SSD tier: blocks on disk below the pool's memory. Every failure is a miss.

Thread-safe. Work is handed to I/O threads by `submit_put` and `submit_get`, which refuse at once
when the queue is full or the disk is ill; `put` and `get` wait for a whole batch. What a caller
hands over stays in use until `done` is called, however long the disk takes.
"""

import logging
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from typing_extensions import Buffer

from starloom.kv.errors import BlockTooLarge
from starloom.kv.layout import SlotClass
from starloom.kv.local import flat
from starloom.kv.policies import Lru, Policy
from starloom.kv.ssd.base import Done, SsdStat
from starloom.kv.ssd.batch import Batch
from starloom.kv.ssd.disk import Bounce, Disk
from starloom.kv.ssd.health import Health
from starloom.kv.ssd.queue import IoQueue
from starloom.kv.ssd.segment import BadSlot, Segment
from starloom.kv.ssd.slots import Place, SlotTable

THREADS, DEPTH, STALL_S = 4, 256, 10.0
MAX_KEEP_S = 7 * 86400.0
"""A clock that jumps back must not keep a block for ever."""
_log = logging.getLogger("starloom.kv.ssd")


class _Shelf:
    """One segment and its table."""

    def __init__(self, segment: Segment, policy: Callable[[int], Policy]) -> None:
        self.segment = segment
        self.table = SlotTable(segment.slots, policy)
        self.resizing = threading.Lock()


class SsdTier:
    """One folder with a segment file a slot class."""

    def __init__(
        self,
        folder: Path,
        classes: Sequence[SlotClass],
        *,
        threads: int = THREADS,
        depth: int = DEPTH,
        stall_s: float = STALL_S,
        policy: Callable[[int], Policy] = Lru,
        disk: Disk | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open, preallocate and scan. Raises `SegmentInUse` and OSError (ENOSPC, EIO, ...)."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._clock = clock
        self._lock = threading.Lock()
        self._health = Health()
        self._put = self._hit = self._bad = self._refused = 0
        self._shelves: list[_Shelf] = []
        try:
            for size, slots in sorted(classes):
                segment = Segment(folder / f"{size}.kv", size, slots, disk)
                self._shelves.append(_Shelf(segment, policy))
                self._restore(self._shelves[-1])
        except BaseException:
            for shelf in self._shelves:
                shelf.segment.close()
            raise
        self._sizes = [shelf.segment.slot_bytes for shelf in self._shelves]
        self._queue = IoQueue(threads, depth, self._sizes[-1], stall_s)

    def __contains__(self, key: bytes) -> bool:
        with self._lock:
            return any(key in shelf.table for shelf in self._shelves)

    def busy(self, key: bytes) -> bool:
        """Whether the block is held or on its way in."""
        with self._lock:
            return any(shelf.table.busy(key) for shelf in self._shelves)

    def lengths(self, keys: Sequence[bytes]) -> list[int]:
        """Bytes of each block of the longest held prefix. Renews nothing."""
        found: list[int] = []
        with self._lock:
            for key in keys:
                shelf = self._shelf_of(key)
                if shelf is None:
                    break
                found.append(shelf.table.length(key) or 0)
        return found

    def longest_prefix(self, keys: Sequence[bytes]) -> int:
        """How many leading `keys` are held. Renews nothing."""
        return len(self.lengths(keys))

    def submit_put(self, key: bytes, data: memoryview, done: Done, keep_s: float = 0.0) -> bool:
        """Write a block, kept for `keep_s` seconds at least; False when it is refused.

        Raises `BlockTooLarge`. A held block is written again (to be kept longer, say).
        """
        shelf = self._shelf_for(len(data))
        now_s = self._clock()
        with self._lock:
            usable = self._health.usable(now_s)
            until = now_s + min(keep_s, MAX_KEEP_S) if keep_s > 0 else 0.0
            place = shelf.table.take(key, len(data), now_s, until) if usable else None
            if place is None:
                self._refused += 1
                return False
        if self._queue.submit(partial(self._write, shelf, place, data, done), urgent=False):
            return True
        with self._lock:
            shelf.table.abort(place)
            self._refused += 1
        return False

    def submit_get(self, key: bytes, target: memoryview, done: Done) -> bool:
        """Read a block into `target`, which has its length; False when it is not to be had.

        A page-aligned target is filled by the device itself.
        """
        with self._lock:
            shelf = self._shelf_of(key)
            if shelf is None or not self._health.usable(self._clock()):
                return False
            place = shelf.table.hold(key)
            if place is None or place.length != len(target):
                if place is not None:
                    shelf.table.release(place)
                return False
        if self._queue.submit(partial(self._read, shelf, place, target, done), urgent=True):
            return True
        with self._lock:
            shelf.table.release(place)
        return False

    def put(
        self, blocks: Sequence[tuple[bytes, Buffer]], *, timeout_s: float, keep_s: float = 0.0
    ) -> int:
        """Write the blocks that are not held, waiting for room in the queue; how many were."""
        batch = Batch(timeout_s)
        for key, block in blocks:
            if keep_s <= 0 and self.busy(key):
                continue
            if not self._queue.wait_for_room(batch.rest_s()):
                break
            begun = batch.begin()
            if not self.submit_put(key, flat(block), begun, keep_s):
                begun(False)
        return sum(batch.wait())

    def get(self, keys: Sequence[bytes], targets: Sequence[memoryview], *, timeout_s: float) -> int:
        """Fill the leading `targets` with the longest prefix that can be read in time.

        Targets beyond the returned count hold garbage, and after a timeout the disk may still
        write to them: throw them away.
        """
        batch = Batch(timeout_s)
        for key, target in zip(keys, targets, strict=True):
            if not self._queue.wait_for_room(batch.rest_s()):
                break
            begun = batch.begin()
            if not self.submit_get(key, target, begun):
                begun(False)
                break
        read = batch.wait()
        return read.index(False) if False in read else len(read)

    def resize(self, slot_bytes: int, slots: int) -> None:
        """Give a class this many slots while everything runs; only what is evicted is lost.

        Waits for I/O on slots beyond the end. Raises KeyError for a class that there is not,
        TimeoutError when such I/O does not end (call again), and OSError where the disk is full.
        """
        shelf = self._shelves[self._sizes.index(slot_bytes)] if slot_bytes in self._sizes else None
        if shelf is None:
            raise KeyError(f"no slots of {slot_bytes} bytes; there are: {self._sizes}")
        with shelf.resizing:
            if slots > shelf.segment.slots:
                shelf.segment.resize(slots)  # room on disk before anybody writes there
            with self._lock:
                moves = shelf.table.resize(slots, self._clock())
            bounce = Bounce(slot_bytes)
            for key in moves:
                self._move(shelf, key, bounce)
            with self._lock:
                shelf.table.evict_beyond()
            self._trim(shelf)

    def stat(self) -> SsdStat:
        with self._lock:
            tables = [shelf.table for shelf in self._shelves]
            dead = f"{self._queue.dead} I/O threads have died" if self._queue.dead else ""
            why = self._queue.why_not() or dead or self._health.why
            return SsdStat(
                slots=sum(table.slots for table in tables),
                blocks=sum(map(len, tables)),
                put_blocks=self._put,
                hit_blocks=self._hit,
                evicted_blocks=sum(table.evicted for table in tables),
                bad_blocks=self._bad,
                refused_blocks=self._refused,
                errors=self._health.errors,
                waiting=self._queue.waiting,
                healthy=not why,
                why=why,
            )

    def close(self, timeout_s: float = 5.0) -> bool:
        """Write what is queued and end; False, with files left open, when I/O does not end."""
        if not self._queue.close(timeout_s):
            _log.warning("the SSD tier was left with I/O that does not end")
            return False
        for shelf in self._shelves:
            shelf.segment.close()
        return True

    def _restore(self, shelf: _Shelf) -> None:
        if shelf.segment.buffered_why:
            _log.warning("%s: the page cache is used", shelf.segment.buffered_why)
        if not shelf.segment.fresh:
            latest_s = self._clock() + MAX_KEEP_S
            found = list(shelf.segment.scan())
            shelf.table.restore(each for each in found if each.keep_until_s <= latest_s)
            _log.info("%s: %d blocks found again", shelf.segment.path, len(shelf.table))

    def _shelf_of(self, key: bytes) -> _Shelf | None:
        return next((shelf for shelf in self._shelves if key in shelf.table), None)

    def _shelf_for(self, size: int) -> _Shelf:
        at = bisect_left(self._sizes, size)
        if at == len(self._sizes):
            raise BlockTooLarge(f"a block of {size} bytes is over {self._sizes[-1]}, the largest")
        return self._shelves[at]

    def _write(
        self, shelf: _Shelf, place: Place, data: memoryview, done: Done, bounce: Bounce
    ) -> None:
        ok = False
        try:
            shelf.segment.write(place, data, bounce)
            ok = True
        except OSError as error:
            self._failed(error)
        finally:
            with self._lock:
                if ok:
                    self._health.worked()
                    ok = shelf.table.commit(place)
                    self._put += ok
                else:
                    shelf.table.abort(place)
            done(ok)

    def _read(
        self, shelf: _Shelf, place: Place, target: memoryview, done: Done, bounce: Bounce
    ) -> None:
        ok = False
        try:
            shelf.segment.read(place, target, bounce)
            ok = True
        except BadSlot as error:
            _log.warning("%s: %s", shelf.segment.path, error)
        except OSError as error:
            self._failed(error)
        finally:
            with self._lock:
                if ok:
                    self._health.worked()
                    self._hit += 1
                else:
                    self._bad += 1
                    shelf.table.drop(place)
                shelf.table.release(place)
            done(ok)

    def _failed(self, error: OSError) -> None:
        _log.warning("the SSD tier: %s", error)
        with self._lock:
            self._health.failed(self._clock(), error.strerror or str(error))

    def _move(self, shelf: _Shelf, key: bytes, bounce: Bounce) -> None:
        """Copy a block to a lower slot. It may fail: then it is evicted."""
        with self._lock:
            source = shelf.table.hold(key)
            if source is None:
                return
            until = source.keep_until_s
            target = shelf.table.take(key, source.length, self._clock(), until)
        moved = False
        try:
            if target is not None:
                data = memoryview(bytearray(source.length))
                shelf.segment.read(source, data, bounce)
                shelf.segment.write(target, data, bounce)
                moved = True
        except (BadSlot, OSError) as error:
            _log.warning("a block could not be moved: %s", error)
        with self._lock:
            if target is not None:
                shelf.table.commit(target) if moved else shelf.table.abort(target)
            shelf.table.release(source)

    def _trim(self, shelf: _Shelf) -> None:
        until = time.monotonic() + STALL_S
        while True:
            with self._lock:
                if shelf.table.trim():
                    break
            if time.monotonic() > until:
                raise TimeoutError(f"{shelf.segment.path}: I/O beyond the new end does not end")
            time.sleep(0.005)
        if shelf.segment.slots > shelf.table.slots:
            shelf.segment.resize(shelf.table.slots)
