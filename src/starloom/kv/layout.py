"""Where slots lie in the arena. Server and client compute it from the same slot classes.

    0         generation of slot 0, of slot 1, ... (64-bit words in the machine's order)
    page n    slots of the smallest class, each at a multiple of 64 bytes
    page m    slots of the next class ...

A slot's generation word changes before the first byte of the slot does. A reader that copied bytes
and then still finds the generation that it was told has copied the right bytes.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import NamedTuple, Self

from starloom.kv.errors import BlockTooLarge

PAGE_BYTES = 4096
ALIGN_BYTES = 64
GENERATION_BYTES = 8
MAX_SLOTS = 1 << 24


class SlotClass(NamedTuple):
    """`slots` slots of `slot_bytes` bytes each. Each model's block size wants one."""

    slot_bytes: int
    slots: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `BYTESxCOUNT`, such as `1048576x512`. Raises ValueError."""
        size, cross, count = text.partition("x")
        if not (cross and size.isdecimal() and count.isdecimal()):
            raise ValueError(f"slots {text!r}: write BYTESxCOUNT, such as 1048576x512")
        return cls(int(size), int(count))

    def __str__(self) -> str:
        return f"{self.slot_bytes}x{self.slots}"


class Block(NamedTuple):
    """A block's place: a slot, how much of it is used, and the slot's generation."""

    slot: int
    length: int
    generation: int


class Layout:
    """Offsets of all slots of an arena. Slots are numbered from the smallest class up."""

    def __init__(self, classes: Sequence[SlotClass]) -> None:
        self.classes = tuple(sorted(classes))
        _check(self.classes)
        self._sizes = [each.slot_bytes for each in self.classes]
        self.slots = sum(each.slots for each in self.classes)
        self._strides = [_round_up(size, ALIGN_BYTES) for size in self._sizes]
        self._first: list[int] = []
        self._base: list[int] = []
        first, base = 0, _round_up(self.slots * GENERATION_BYTES, PAGE_BYTES)
        for (_, slots), stride in zip(self.classes, self._strides, strict=True):
            self._first.append(first)
            self._base.append(base)
            first += slots
            base += _round_up(slots * stride, PAGE_BYTES)
        self.total_bytes = base
        self.slot_bytes = self._sizes[-1]

    def class_for(self, size: int) -> int:
        """Index of the smallest class that holds `size` bytes. Raises `BlockTooLarge`."""
        index = bisect_left(self._sizes, size)
        if index == len(self._sizes):
            raise BlockTooLarge(
                f"a block of {size} bytes does not fit the pool's largest slot "
                f"({self.slot_bytes} bytes); start the pool with --slots {size}xCOUNT"
            )
        return index

    def class_of(self, slot: int) -> int:
        """Index of the class that a slot belongs to."""
        return bisect_right(self._first, slot) - 1

    def slots_of(self, index: int) -> range:
        """Numbers of the slots of a class."""
        return range(self._first[index], self._first[index] + self.classes[index].slots)

    def cut(self, data: memoryview, blocks: Sequence[Block]) -> list[memoryview]:
        """The bytes of blocks in an arena's `data`. Raises IndexError where one is beyond it."""
        if len(self.classes) > 1:
            return [data[self.span(slot, length)] for slot, length, _ in blocks]
        base, stride, size, end = self._base[0], self._strides[0], self._sizes[0], self.slots
        found = []
        for slot, length, _ in blocks:  # `span` of one class, without a call for each block
            if not (0 <= slot < end and 0 <= length <= size):
                raise IndexError(f"slot {slot} with {length} bytes is not in this arena")
            start = base + slot * stride
            found.append(data[start : start + length])
        return found

    def span(self, slot: int, length: int) -> slice:
        """Bytes of the arena that `length` bytes in a slot take. Raises IndexError beyond it."""
        index = bisect_right(self._first, slot) - 1
        if not (0 <= slot < self.slots and 0 <= length <= self._sizes[index]):
            raise IndexError(f"slot {slot} with {length} bytes is not in this arena")
        start = self._base[index] + (slot - self._first[index]) * self._strides[index]
        return slice(start, start + length)


def _check(classes: tuple[SlotClass, ...]) -> None:
    if not classes:
        raise ValueError("an arena needs at least one slot class")
    for each in classes:
        if each.slot_bytes < 1 or each.slots < 1:
            raise ValueError(f"slots {each}: both figures must be at least 1")
    sizes = [each.slot_bytes for each in classes]
    if len(set(sizes)) != len(sizes):
        raise ValueError(f"slot sizes {sizes}: give each size once")
    if sum(each.slots for each in classes) > MAX_SLOTS:
        raise ValueError(f"an arena holds at most {MAX_SLOTS} slots")


def _round_up(size: int, step: int) -> int:
    return -(-size // step) * step
