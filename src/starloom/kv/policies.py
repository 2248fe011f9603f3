"""Which block goes when room is needed. A policy is pure: it sees keys, it reads no clock.

A policy knows only the blocks that were handed to it by `touch` and not taken back by `forget`.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol


class Policy(Protocol):
    """The order in which the blocks of one slot class are given up."""

    def touch(self, keys: Sequence[bytes]) -> None:
        """These blocks, in prefix order, were used now. Unknown ones are taken up."""

    def forget(self, key: bytes) -> None:
        """The block is gone. Does nothing for an unknown one."""

    def victim(self, pinned: Callable[[bytes], bool]) -> bytes | None:
        """The block to give up next, or None when all are pinned. Changes nothing."""


class Lru:
    """Least recently used, touched tail first: a prefix is always younger than its tail.

    A block is of no use without all blocks before it. Touching a sequence from its last block to
    its first makes eviction eat chains from their ends, so no hole is ever left in one.
    """

    def __init__(self) -> None:
        self._order: OrderedDict[bytes, None] = OrderedDict()

    def touch(self, keys: Sequence[bytes]) -> None:
        for key in reversed(keys):
            self._order[key] = None
            self._order.move_to_end(key)

    def forget(self, key: bytes) -> None:
        self._order.pop(key, None)

    def victim(self, pinned: Callable[[bytes], bool]) -> bytes | None:
        return next((key for key in self._order if not pinned(key)), None)
