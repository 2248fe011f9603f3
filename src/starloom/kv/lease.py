"""Pinned blocks in an arena that this process maps, and how a reader learns that pins were lost.

While the connection lives, pins keep the slots from reuse and `valid` is true. When it is lost:

- The server is gone: nobody can write the old arena any more, our mapping keeps it alive, so the
  views stay readable and right, and `valid` stays true. The next connection maps the new arena.
- The server dropped us but lives on (we timed out, or it thought that we stalled): it may fill the
  slot again. It writes the slot's generation word in the arena before the first byte changes, so
  after copying, `valid` compares that word with the generation that the lease was granted for.

No message is needed for either, so `valid` costs well under a microsecond a block and cannot hang.
"""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from starloom.kv.layout import Block


class ArenaLease:
    """Read-only views of pinned blocks. Not to be shared by threads while one may release it.

    A lease that is forgotten keeps its blocks pinned until its pool is closed: views may be alive
    when the lease no longer is, so the garbage collector must not unpin.
    """

    def __init__(
        self,
        views: Sequence[memoryview],
        blocks: Sequence[Block],
        generations: memoryview,
        on_release: Callable[[], None],
    ) -> None:
        self.views = views
        self._blocks = blocks
        self._generations = generations
        self._on_release: Callable[[], None] | None = on_release

    def valid(self) -> bool:
        """Whether what has been read from the views until now is what was put."""
        now = self._generations
        return self._on_release is not None and all(
            now[block.slot] == block.generation for block in self._blocks
        )

    def release(self) -> None:
        """Unpin the blocks. Reading a view afterwards raises ValueError."""
        on_release, self._on_release = self._on_release, None
        if on_release is None:
            return
        for view in self.views:
            try:  # no suppress(): a thousand blocks are released at once
                view.release()
            except BufferError:  # an array made from it is still alive
                continue
        self._generations, self._blocks = memoryview(b""), ()  # let the mapping go
        on_release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
