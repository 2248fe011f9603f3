"""What the SSD tier asks of the system; tests put a failing or a slow one in its place."""

import errno
import fcntl
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from typing_extensions import Buffer

PAGE_BYTES = 4096
"""Alignment of offsets, lengths and memory that every disk and file system takes for O_DIRECT."""


class Disk:
    """System calls on one kind of file: preallocated, locked, read and written past the cache."""

    def open(self, path: Path, *, direct: bool) -> int:
        """Raises OSError; EINVAL where the file system does not know O_DIRECT."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(path, flags | (os.O_DIRECT if direct else 0), 0o600)

    def lock(self, fd: int) -> bool:
        """Take the file for this process; False where another has it. Ends with the process."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in {errno.EWOULDBLOCK, errno.EACCES}:
                return False
            raise
        return True

    def allocate(self, fd: int, size: int) -> None:
        """Have `size` bytes on disk, or raise OSError (ENOSPC) with the file as it was.

        Free space is asked for first, so that a wish that cannot be met does not fill the disk.
        """
        file, system = os.fstat(fd), os.fstatvfs(fd)
        before = file.st_size
        if size - file.st_blocks * 512 > system.f_bavail * system.f_frsize:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError:
            os.ftruncate(fd, before)
            raise
        if before > size:
            os.ftruncate(fd, size)

    def read(self, fd: int, parts: Sequence[Buffer], offset: int) -> int:
        return os.preadv(fd, parts, offset)

    def write(self, fd: int, parts: Sequence[Buffer], offset: int) -> int:
        return os.pwritev(fd, parts, offset)


class Bounce:
    """Page-aligned memory of one I/O thread: headers, and what is not aligned in its caller's.

    It holds a run of `blocks` blocks of `size` bytes altogether; pages that are never used are
    never there.
    """

    def __init__(self, size: int, blocks: int = 1) -> None:
        heads = blocks * PAGE_BYTES
        area = memoryview(mmap.mmap(-1, 2 * heads + round_up(size)))
        self.heads = [area[at : at + PAGE_BYTES] for at in range(0, heads, PAGE_BYTES)]
        """A page for each block of a run."""
        self._rest = area[heads:]
        self._used = 0

    def clear(self) -> None:
        """What was taken is free again."""
        self._used = 0

    def take(self, length: int) -> memoryview:
        """`length` bytes, rounded up to whole pages."""
        start, self._used = self._used, self._used + round_up(length)
        return self._rest[start : self._used]


def round_up(size: int) -> int:
    """To whole pages."""
    return -(-size // PAGE_BYTES) * PAGE_BYTES


def is_aligned(data: memoryview) -> bool:
    """Whether memory begins at a page, so that the device may work on it without a copy."""
    if not data:
        return True
    address: int = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
    return address % PAGE_BYTES == 0
