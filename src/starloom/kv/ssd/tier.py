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
from typing import NamedTuple

from typing_extensions import Buffer

from starloom.kv.errors import BlockTooLarge
from starloom.kv.layout import SlotClass
from starloom.kv.local import flat
from starloom.kv.policies import Lru, Policy
from starloom.kv.ssd.base import Done, SsdStat
from starloom.kv.ssd.batch import Batch
from starloom.kv.ssd.disk import Bounce, Disk
from starloom.kv.ssd.health import Health
from starloom.kv.ssd.queue import RUN_BLOCKS, RUN_BYTES, IoQueue
from starloom.kv.ssd.segment import BadSlot, Segment
from starloom.kv.ssd.shelf import Job, Shelf

THREADS, DEPTH, STALL_S = 4, 256, 10.0
MAX_KEEP_S = 7 * 86400.0
"""A clock that jumps back must not keep a block for ever."""
_log = logging.getLogger("starloom.kv.ssd")


class Want(NamedTuple):
    """A block to write, or where to read one to; `done` is called from an I/O thread."""

    key: bytes
    data: memoryview
    done: Done


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
        self._shelves: list[Shelf] = []
        try:
            for size, slots in sorted(classes):
                segment = Segment(folder / f"{size}.kv", size, slots, disk)
                self._shelves.append(Shelf(segment, policy))
                self._restore(self._shelves[-1])
        except BaseException:
            for shelf in self._shelves:
                shelf.segment.close()
            raise
        self._sizes = [shelf.segment.slot_bytes for shelf in self._shelves]
        self._queue = IoQueue(threads, depth, stall_s, self._worker)

    def __contains__(self, key: bytes) -> bool:
        with self._lock:
            return any(key in shelf.table for shelf in self._shelves)

    def busy(self, key: bytes) -> bool:
        """Whether the block is held or on its way in."""
        with self._lock:
            return self._busy(key)

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
        return not self.submit_puts([Want(key, data, done)], keep_s)

    def submit_puts(self, wants: Sequence[Want], keep_s: float = 0.0) -> list[Want]:
        """Write blocks; returns those that are refused. Raises `BlockTooLarge` before any is taken.

        Blocks of one size that are handed over together lie together, and are written and read in
        few system calls.
        """
        shelves = [self._shelf_for(len(want.data)) for want in wants]
        now_s = self._clock()
        until = now_s + min(keep_s, MAX_KEEP_S) if keep_s > 0 else 0.0
        jobs: list[Job] = []
        refused: list[Want] = []
        with self._lock:
            room = self._queue.room if self._health.usable(now_s) else 0
            for want, shelf in zip(wants, shelves, strict=True):
                place = None
                if len(jobs) < room:
                    place = shelf.table.take(want.key, len(want.data), now_s, until)
                if place is None:
                    refused.append(want)
                else:
                    jobs.append(Job(shelf, place, want.data, want.done, writes=True))
        taken = self._queue.submit(jobs, urgent=False)
        with self._lock:
            for job in jobs[taken:]:
                job.settle(None)
                refused.append(Want(job.place.key, job.data, job.done))
            self._refused += len(refused)
        return refused

    def submit_get(self, key: bytes, target: memoryview, done: Done) -> bool:
        """Read a block into `target`, which has its length; False when it is not to be had.

        A page-aligned target is filled by the device itself.
        """
        return bool(self.submit_gets([Want(key, target, done)]))

    def submit_gets(self, wants: Sequence[Want]) -> int:
        """Read blocks into their targets; how many leading ones will be."""
        jobs: list[Job] = []
        with self._lock:
            room = self._queue.room if self._health.usable(self._clock()) else 0
            for want in wants[:room]:
                shelf = self._shelf_of(want.key)
                place = shelf.table.hold(want.key) if shelf is not None else None
                if shelf is None or place is None:
                    break
                if place.length != len(want.data):
                    shelf.table.release(place)
                    break
                jobs.append(Job(shelf, place, want.data, want.done, writes=False))
        taken = self._queue.submit(jobs, urgent=True)
        if taken < len(jobs):
            with self._lock:
                for job in jobs[taken:]:
                    job.shelf.table.release(job.place)
        return taken

    def put(
        self, blocks: Sequence[tuple[bytes, Buffer]], *, timeout_s: float, keep_s: float = 0.0
    ) -> int:
        """Write the blocks that are not held, waiting for room in the queue; how many were."""
        if keep_s <= 0:
            with self._lock:
                blocks = [each for each in blocks if not self._busy(each[0])]
        batch = Batch(timeout_s)
        wants = [Want(key, flat(block), batch.begin()) for key, block in blocks]
        while wants and (room := self._queue.wait_for_room(batch.rest_s())):
            for refused in self.submit_puts(wants[:room], keep_s):
                refused.done(False)
            wants = wants[room:]
        for left in wants:
            left.done(False)
        return sum(batch.wait())

    def get(self, keys: Sequence[bytes], targets: Sequence[memoryview], *, timeout_s: float) -> int:
        """Fill the leading `targets` with the longest prefix that can be read in time.

        Targets beyond the returned count hold garbage, and after a timeout the disk may still
        write to them: throw them away.
        """
        batch = Batch(timeout_s)
        wants = [Want(key, to, batch.begin()) for key, to in zip(keys, targets, strict=True)]
        while wants and self._queue.wait_for_room(batch.rest_s()):
            taken = self.submit_gets(wants)
            if not taken:
                break
            wants = wants[taken:]
        for left in wants:
            left.done(False)
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

    def _restore(self, shelf: Shelf) -> None:
        if shelf.segment.buffered_why:
            _log.warning("%s: the page cache is used", shelf.segment.buffered_why)
        if not shelf.segment.fresh:
            latest_s = self._clock() + MAX_KEEP_S
            found = list(shelf.segment.scan())
            shelf.table.restore(each for each in found if each.keep_until_s <= latest_s)
            _log.info("%s: %d blocks found again", shelf.segment.path, len(shelf.table))

    def _busy(self, key: bytes) -> bool:
        return any(shelf.table.busy(key) for shelf in self._shelves)

    def _shelf_of(self, key: bytes) -> Shelf | None:
        for shelf in self._shelves:
            if key in shelf.table:
                return shelf
        return None

    def _shelf_for(self, size: int) -> Shelf:
        at = bisect_left(self._sizes, size)
        if at == len(self._sizes):
            raise BlockTooLarge(f"a block of {size} bytes is over {self._sizes[-1]}, the largest")
        return self._shelves[at]

    def _worker(self) -> Callable[[Sequence[Job]], None]:
        """What one I/O thread does with a run of jobs."""
        return partial(self._do, Bounce(max(self._sizes[-1], RUN_BYTES), RUN_BLOCKS))

    def _do(self, bounce: Bounce, run: Sequence[Job]) -> None:
        ended: list[bool | None] = [False] * len(run)
        try:
            ended = self._transfer(run, bounce)
        finally:
            with self._lock:
                if any(ended):
                    self._health.worked()
                good = [job.settle(ok) for job, ok in zip(run, ended, strict=True)]
                if run[0].writes:
                    self._put += sum(good)
                else:
                    self._hit += sum(good)
                    self._bad += ended.count(False)
            for job, ok in zip(run, good, strict=True):
                job.done(ok)

    def _transfer(self, run: Sequence[Job], bounce: Bounce) -> list[bool | None]:
        """Write or read a run; whether blocks are as they should be, None for those not tried."""
        segment, items = run[0].shelf.segment, [(job.place, job.data) for job in run]
        try:
            if run[0].writes:
                segment.write(items, bounce)
                return [True] * len(run)
            wrong = segment.read(items, bounce)
        except OSError as error:
            if len(run) > 1:  # one bad sector costs one block
                return [self._transfer([job], bounce)[0] if self._usable() else None for job in run]
            self._failed(error)
            return [False]
        for why in filter(None, wrong):
            _log.warning("%s: %s", segment.path, why)
        return [why is None for why in wrong]

    def _usable(self) -> bool:
        with self._lock:
            return self._health.usable(self._clock())

    def _failed(self, error: OSError) -> None:
        _log.warning("the SSD tier: %s", error)
        with self._lock:
            self._health.failed(self._clock(), error.strerror or str(error))

    def _move(self, shelf: Shelf, key: bytes, bounce: Bounce) -> None:
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
                [wrong] = shelf.segment.read([(source, data)], bounce)
                if wrong is not None:
                    raise wrong
                shelf.segment.write([(target, data)], bounce)
                moved = True
        except (BadSlot, OSError) as error:
            _log.warning("a block could not be moved: %s", error)
        with self._lock:
            if target is not None:
                shelf.table.commit(target) if moved else shelf.table.abort(target)
            shelf.table.release(source)

    def _trim(self, shelf: Shelf) -> None:
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
