"""Memory that blocks are received into: touched once, used again, bounded.

A first touch of a page costs several times the copy into it, so buffers are kept for the next get.
"""

import mmap
import threading

from starloom.kv.arena import private

_STEP_BYTES = 2 << 20


class Buffers:
    """Thread-safe. `take` gives None rather than more than `most_bytes` in all."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._lock = threading.Lock()
        self._free: list[mmap.mmap] = []
        self._taken = 0

    def share(self, parts: int) -> int:
        """Bytes that each of so many takers may take now."""
        return (self._most - self._taken) // parts // _STEP_BYTES * _STEP_BYTES

    def take(self, size: int) -> memoryview | None:
        """A buffer of at least `size` bytes, to be given back."""
        want = -(-max(size, 1) // _STEP_BYTES) * _STEP_BYTES
        with self._lock:
            fits = [at for at, area in enumerate(self._free) if want <= len(area) <= 2 * want]
            if fits:
                found = self._free.pop(min(fits, key=lambda at: len(self._free[at])))
                self._taken += len(found)
                return memoryview(found)
            if self._taken + want > self._most:
                return None
            self._taken += want
            while self._free and self._taken + sum(map(len, self._free)) > self._most:
                self._free.pop(0)
        return memoryview(private(want))

    def give(self, buffer: memoryview) -> None:
        """Take a buffer back. If an array that was made from it is alive, it is not used again."""
        area, size = buffer.obj, len(buffer)
        buffer.release()
        kept = [area] if isinstance(area, mmap.mmap) and _idle(area) else []
        with self._lock:
            self._taken -= size
            self._free += kept

    def forget(self, buffer: memoryview) -> None:
        """Somebody still reads it: its memory goes when they end."""
        with self._lock:
            self._taken -= len(buffer)


def _idle(area: mmap.mmap) -> bool:
    """Whether nothing points into the memory any more; only a resize can tell, here to its size."""
    try:
        area.resize(len(area))
    except BufferError:
        return False
    return True
