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
from collections.abc import Iterator, Sequence
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


Item = tuple[Place, memoryview]
"""A slot and the bytes that go there, or where they are to go."""


class Segment:
    """The file. Thread-safe but for `resize`; each thread brings its own `Bounce`.

    Blocks move in *runs*: slots that follow one another go in one system call, so that pages of
    64 KiB cost little more than large blocks do.
    """

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
                bounce.heads[0][:] = self._stamp()
                self._disk.write(self._fd, [bounce.heads[0]], 0)
        except BaseException:
            os.close(self._fd)
            raise

    @property
    def total_bytes(self) -> int:
        """Of the file."""
        return PAGE_BYTES + self.slots * self._stride

    def joins(self, place: Place, following: Place) -> bool:
        """Whether a block lies right behind another one, with nothing in between."""
        whole = PAGE_BYTES + round_up(place.length) == self._stride
        return whole and following.slot == place.slot + 1

    def write(self, run: Sequence[Item], bounce: Bounce) -> None:
        """Put the blocks of a run into their slots. Raises OSError; none is certain then."""
        bounce.clear()
        parts: list[memoryview] = []
        for head, (place, data) in zip(bounce.heads, run, strict=False):
            _fill(head, place, data)
            parts.append(head)
            if is_aligned(data):
                whole = len(data) // PAGE_BYTES * PAGE_BYTES
                parts.append(data[:whole])
                if whole < len(data):
                    parts.append(bounce.take(PAGE_BYTES))
                    parts[-1][: len(data) - whole] = data[whole:]
            else:
                parts.append(bounce.take(len(data)))
                parts[-1][: len(data)] = data
        done = self._disk.write(self._fd, [part for part in parts if part], self._at(run[0][0]))
        if done != (size := sum(map(len, parts))):
            raise OSError(errno.ENOSPC, f"{self.path}: {done} of {size} bytes were written")

    def read(self, run: Sequence[Item], bounce: Bounce) -> list[BadSlot | None]:
        """Fill the targets of a run; what is wrong with each block. Raises OSError.

        The target of a bad block is garbage. Where memory is aligned the device writes into it;
        only a last partial page is copied.
        """
        bounce.clear()
        parts: list[memoryview] = []
        copies: list[tuple[memoryview, memoryview]] = []
        for head, (place, target) in zip(bounce.heads, run, strict=False):
            whole = place.length // PAGE_BYTES * PAGE_BYTES if is_aligned(target) else 0
            rest = bounce.take(place.length - whole)
            parts += head, target[:whole], rest
            copies.append((target[whole:], rest[: place.length - whole]))
        done = self._disk.read(self._fd, [part for part in parts if part], self._at(run[0][0]))
        found: list[BadSlot | None] = []
        for head, (place, target), (to, rest) in zip(bounce.heads, run, copies, strict=False):
            done -= PAGE_BYTES + round_up(place.length)
            to[:] = rest
            found.append(_wrong(head, place, target, cut_off=done < 0))
        return found

    def scan(self) -> Iterator[Place]:
        """Places of all slots whose header is whole. Raises OSError."""
        head = Bounce(0).heads[0]
        for slot in range(self.slots):
            try:
                at = PAGE_BYTES + slot * self._stride
                if self._disk.read(self._fd, [head], at) == PAGE_BYTES:
                    place, _ = _header(head, slot)
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

    def _at(self, place: Place) -> int:
        return PAGE_BYTES + place.slot * self._stride

    def _open(self) -> int:
        try:
            return self._disk.open(self.path, direct=True)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        self.buffered_why = f"{self.path}: this file system does not take O_DIRECT"
        return self._disk.open(self.path, direct=False)

    def _ours(self, bounce: Bounce) -> bool:
        done = self._disk.read(self._fd, [bounce.heads[0]], 0)
        return done == PAGE_BYTES and bounce.heads[0] == self._stamp()

    def _stamp(self) -> bytes:
        """The first page."""
        head = _FILE.pack(_FILE_MAGIC, _VERSION, self.slot_bytes)
        return (head + _SUM.pack(xxh3_64_intdigest(head))).ljust(PAGE_BYTES, b"\0")


def _fill(head: memoryview, place: Place, data: memoryview) -> None:
    """Make a block's header page."""
    digest = xxh3_64_intdigest(data)
    fields = (place.key, place.length, place.generation, place.keep_until_s, digest)
    _SLOT.pack_into(head, 0, _SLOT_MAGIC, *fields)
    _SUM.pack_into(head, _SLOT.size, xxh3_64_intdigest(head[: _SLOT.size]))


def _wrong(head: memoryview, place: Place, data: memoryview, *, cut_off: bool) -> BadSlot | None:
    """Why what was read is not the block that was put there; None when it is."""
    if cut_off:
        return BadSlot(f"slot {place.slot} is cut off")
    try:
        found, digest = _header(head, place.slot)
    except BadSlot as error:
        return error
    if found != place:
        return BadSlot(f"slot {place.slot} holds another block")
    if xxh3_64_intdigest(data) != digest:
        return BadSlot(f"slot {place.slot}: the block is not what was written")
    return None


def _header(page: memoryview, slot: int) -> tuple[Place, int]:
    """What a header page says, and the block's checksum. Raises `BadSlot`."""
    head = page[: _SLOT.size]
    (digest,) = _SUM.unpack_from(page, _SLOT.size)
    magic, key, length, generation, keep_until_s, block_digest = _SLOT.unpack(head)
    if magic != _SLOT_MAGIC or xxh3_64_intdigest(head) != digest:
        raise BadSlot(f"slot {slot} has no whole header")
    return Place(slot, key, length, generation, keep_until_s), block_digest
