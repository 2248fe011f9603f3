"""The pool's memory: one anonymous file that clients map read-only.

The file is a memfd: it has no name, so nothing stands in /dev/shm and the kernel frees it with the
last process that maps it, however that process ends. The server maps it writable, touches every
page (a first touch is six times slower than a copy), then seals it: it can neither shrink (no
reader is ever hit by SIGBUS) nor be written or mapped writable by anyone who gets the descriptor.
"""

import contextlib
import fcntl
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

from starloom.kv.errors import NoSharedMemory
from starloom.kv.layout import GENERATION_BYTES, PAGE_BYTES, Block, Layout

_F_SEAL_FUTURE_WRITE = 0x10  # Linux 5.1; Python's fcntl does not name it before 3.13
_MADV_POPULATE_WRITE = 23  # Linux 5.14


class Arena:
    """The writable side: slots and their generation words. `share` makes a descriptor to send."""

    def __init__(self, layout: Layout, *, share: bool = True) -> None:
        self.layout = layout
        self.fd = -1
        if not share:
            self._map = private(layout.total_bytes)
        else:
            fd = _anonymous_file(layout.total_bytes)
            try:
                self._map = mmap.mmap(fd, layout.total_bytes)
                _touch(self._map)
                self.fd = _seal(fd)
            except BaseException:
                os.close(fd)
                raise
        self._bytes = memoryview(self._map)
        self.generations = _generations(self._bytes, layout)

    def claim(self, block: Block) -> memoryview:
        """Show readers the slot's new generation, then give its bytes to write to."""
        self.generations[block.slot] = block.generation
        return self._bytes[self.layout.span(block.slot, block.length)]

    def view(self, block: Block) -> memoryview:
        """A block's bytes, read-only."""
        return self._bytes[self.layout.span(block.slot, block.length)].toreadonly()

    def close(self) -> None:
        """Give the descriptor back. Memory goes with the last view of it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class ReadArena:
    """The reader's side: a read-only mapping of a descriptor that the server sent.

    The mapping lives as long as any view of it, whatever becomes of the server.
    """

    def __init__(self, fd: int, layout: Layout) -> None:
        self.layout = layout
        self._map = mmap.mmap(fd, layout.total_bytes, access=mmap.ACCESS_READ)
        self._bytes = memoryview(self._map)
        self.generations = _generations(self._bytes, layout)

    def view(self, block: Block) -> memoryview:
        """A block's bytes, read-only."""
        return self._bytes[self.layout.span(block.slot, block.length)]

    def views(self, blocks: Sequence[Block]) -> list[memoryview]:
        """Bytes of blocks, read-only. Raises IndexError for a block that is not in the arena."""
        return self.layout.cut(self._bytes, blocks)


def _generations(data: memoryview, layout: Layout) -> memoryview:
    return data[: layout.slots * GENERATION_BYTES].cast("Q")


def _anonymous_file(size: int) -> int:
    if not hasattr(os, "memfd_create"):
        raise NoSharedMemory(
            "this system has no memfd_create: the shared pool needs Linux. "
            "Leave `pool` out of the site file; workers then keep their own prefix caches"
        )
    fd = os.memfd_create("starloom-kv", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
    except OSError as error:
        os.close(fd)
        raise NoSharedMemory(f"{size} bytes of shared memory: {error.strerror}") from error
    return fd


def private(size: int) -> mmap.mmap:
    """Memory of this process alone, every page in place; huge ones, as shared ones seldom are."""
    area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    _touch(area)
    return area


def _touch(area: mmap.mmap) -> None:
    """Have every page in place, in huge ones where the system offers them."""
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            area.madvise(mmap.MADV_HUGEPAGE)
    try:
        area.madvise(_MADV_POPULATE_WRITE)
    except OSError:
        for start in range(0, len(area), PAGE_BYTES):
            area[start] = 0


def _seal(fd: int) -> int:
    """Forbid any change but through the mapping that exists; returns the descriptor to send."""
    size_seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, size_seals | _F_SEAL_FUTURE_WRITE | fcntl.F_SEAL_SEAL)
    except OSError:  # before Linux 5.1: send a descriptor that is open for reading only
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, size_seals | fcntl.F_SEAL_SEAL)
        reader = os.open(Path("/proc/self/fd") / str(fd), os.O_RDONLY | os.O_CLOEXEC)
        os.close(fd)
        return reader
    return fd
