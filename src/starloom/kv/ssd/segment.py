"""One file of equal slots, each a header page and a block. No journal, no fsync.

    page 0     file header    magic 8s, version u32, (pad), slot bytes u64, xxh3 of these u64
    page 1     slot 0: header page, then the block in whole pages
    ...        slot 1 ...

A slot's header is magic 8s, key 32s, length u64, generation u64, keep until f64, xxh3 of the block
u64, xxh3 of all of the former u64 (little-endian). Header and block go out in one write; a crash in
the middle leaves a slot whose checksums disagree, which is no block. What a file says is believed
only as far as its checksums go: they find accidents, not forgeries, so the file is its owner's
alone (mode 0600).
"""

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from xxhash import xxh3_64_intdigest

from starloom.kv.errors import KvError
from starloom.kv.ssd.disk import PAGE_BYTES, Bounce, Disk, is_aligned, round_up
from starloom.kv.ssd.slots import Place

_FILE_MAGIC, _SLOT_MAGIC, _VERSION = b"SLKVSEG\0", b"SLKVBLK\0", 1
_FILE = struct.Struct("<8sI4xQ")
_SLOT = struct.Struct("<8s32sQQdQ")
_SUM = struct.Struct("<Q")


class SegmentInUse(KvError):
    """Another process has the segment file."""


class BadSlot(KvError):
    """A slot does not hold what it should: torn, corrupted, cut off. It is a miss."""


class Segment:
    """The file. Thread-safe but for `resize`; each thread brings its own `Bounce`."""

    def __init__(self, path: Path, slot_bytes: int, slots: int, disk: Disk | None = None) -> None:
        """Open and preallocate. Raises `SegmentInUse`, OSError (such as ENOSPC)."""
        self.path = path
        self.slot_bytes = slot_bytes
        self.slots = slots
        self._stride = PAGE_BYTES + round_up(slot_bytes)
        self._disk = disk or Disk()
        self.buffered_why = ""
        """Why the page cache is used; empty when it is not."""
        self._fd = self._open()
        try:
            if not self._disk.lock(self._fd):
                raise SegmentInUse(f"{path}: another pool uses this file; give each its own path")
            bounce = Bounce(0)
            self.fresh = not self._ours(bounce)
            """Whether the file held nothing of this form: there is nothing to scan."""
            if self.fresh:
                os.ftruncate(self._fd, 0)
            self._disk.allocate(self._fd, self.total_bytes)
            if self.fresh:
                bounce.head[:] = self._stamp()
                self._disk.write(self._fd, [bounce.head], 0)
        except BaseException:
            os.close(self._fd)
            raise

    @property
    def total_bytes(self) -> int:
        """Of the file."""
        return PAGE_BYTES + self.slots * self._stride

    def write(self, place: Place, data: memoryview, bounce: Bounce) -> None:
        """Put a block into its slot. Raises OSError; the slot then holds nothing certain."""
        digest = xxh3_64_intdigest(data)
        fields = (place.key, place.length, place.generation, place.keep_until_s, digest)
        head = _SLOT.pack(_SLOT_MAGIC, *fields)
        bounce.head[: _SLOT.size] = head
        bounce.head[_SLOT.size : _SLOT.size + _SUM.size] = _SUM.pack(xxh3_64_intdigest(head))
        whole = len(data) // PAGE_BYTES * PAGE_BYTES
        if not is_aligned(data):
            body = bounce.body(len(data))
            body[: len(data)] = data
            parts = [bounce.head, body]
        else:
            bounce.tail[: len(data) - whole] = data[whole:]
            parts = [bounce.head, data[:whole], bounce.tail[: round_up(len(data)) - whole]]
        size = PAGE_BYTES + round_up(len(data))
        done = self._disk.write(self._fd, [part for part in parts if part], self._at(place.slot))
        if done != size:
            raise OSError(errno.ENOSPC, f"{self.path}: {done} of {size} bytes were written")

    def read(self, place: Place, target: memoryview, bounce: Bounce) -> None:
        """Fill `target` with the block. Raises `BadSlot` and OSError; `target` is then garbage.

        Where memory is aligned the device writes into it; only a last partial page is copied.
        """
        length = place.length
        whole = length // PAGE_BYTES * PAGE_BYTES
        straight = is_aligned(target)
        if straight:
            parts = [bounce.head, target[:whole], bounce.tail[: round_up(length) - whole]]
        else:
            parts = [bounce.head, bounce.body(length)]
        size = PAGE_BYTES + round_up(length)
        done = self._disk.read(self._fd, [part for part in parts if part], self._at(place.slot))
        if done != size:
            raise BadSlot(f"slot {place.slot} is cut off")
        found, digest = _header(bounce.head, place.slot)
        if found != place:
            raise BadSlot(f"slot {place.slot} holds another block")
        if straight:
            target[whole:] = bounce.tail[: length - whole]
        else:
            target[:] = parts[1][:length]
        if xxh3_64_intdigest(target) != digest:
            raise BadSlot(f"slot {place.slot}: the block is not what was written")

    def scan(self) -> Iterator[Place]:
        """Places of all slots whose header is whole. Raises OSError."""
        bounce = Bounce(0)
        for slot in range(self.slots):
            try:
                if self._disk.read(self._fd, [bounce.head], self._at(slot)) == PAGE_BYTES:
                    place, _ = _header(bounce.head, slot)
                    if place.length <= self.slot_bytes:
                        yield place
            except BadSlot:
                continue

    def resize(self, slots: int) -> None:
        """Grow or cut the file. Raises OSError (ENOSPC), with everything as it was."""
        before, self.slots = self.slots, slots
        try:
            self._disk.allocate(self._fd, self.total_bytes)
        except OSError:
            self.slots = before
            raise

    def close(self) -> None:
        """Give the file and its lock back. May be called twice."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _at(self, slot: int) -> int:
        return PAGE_BYTES + slot * self._stride

    def _open(self) -> int:
        try:
            return self._disk.open(self.path, direct=True)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        self.buffered_why = f"{self.path}: this file system does not take O_DIRECT"
        return self._disk.open(self.path, direct=False)

    def _ours(self, bounce: Bounce) -> bool:
        done = self._disk.read(self._fd, [bounce.head], 0)
        return done == PAGE_BYTES and bounce.head == self._stamp()

    def _stamp(self) -> bytes:
        """The first page."""
        head = _FILE.pack(_FILE_MAGIC, _VERSION, self.slot_bytes)
        return (head + _SUM.pack(xxh3_64_intdigest(head))).ljust(PAGE_BYTES, b"\0")


def _header(page: memoryview, slot: int) -> tuple[Place, int]:
    """What a header page says, and the block's checksum. Raises `BadSlot`."""
    head = page[: _SLOT.size]
    (digest,) = _SUM.unpack_from(page, _SLOT.size)
    magic, key, length, generation, keep_until_s, block_digest = _SLOT.unpack(head)
    if magic != _SLOT_MAGIC or xxh3_64_intdigest(head) != digest:
        raise BadSlot(f"slot {slot} has no whole header")
    return Place(slot, key, length, generation, keep_until_s), block_digest
