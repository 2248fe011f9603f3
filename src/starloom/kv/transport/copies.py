"""A lease on copies: blocks that were fetched into memory of this process."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from starloom.kv.remote.buffers import Buffers


class Copies:
    """Views of private memory; nobody else can change them, so they are valid until `release`."""

    def __init__(
        self,
        views: Sequence[memoryview],
        buffers: Buffers | None = None,
        buffer: memoryview | None = None,
    ) -> None:
        """The views' memory is `buffer`, of `buffers`; without them it goes with the views."""
        self.views = views
        self._buffers, self._buffer = buffers, buffer
        self._released = False

    def valid(self) -> bool:
        return not self._released

    def release(self) -> None:
        """Give the memory back. Reading a view afterwards raises ValueError."""
        if self._released:
            return
        self._released, in_use = True, False
        for view in self.views:
            try:
                view.release()
            except BufferError:  # an array made from it is still alive
                in_use = True
        if self._buffers is not None and self._buffer is not None:
            (self._buffers.forget if in_use else self._buffers.give)(self._buffer)
            self._buffers = self._buffer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
