"""Who may touch which memory: windows that an owner grants, checked at the owner for each access.

An access that no single window of the owner covers is refused, counted and reported; it changes
nothing. A window that was taken back refuses from then on, whatever is under way.
"""

from bisect import bisect_right, insort
from collections import Counter, deque
from dataclasses import dataclass, field
from enum import Flag, auto

from starloom.fabric.scaleup.base import Fault, Op
from starloom.fabric.scaleup.errors import BadTransaction


class Right(Flag):
    READ = auto()
    WRITE = auto()
    ATOMIC = auto()


NEEDS = {
    Op.LOAD: Right.READ,
    Op.STORE: Right.WRITE,
    Op.MULTICAST: Right.WRITE,
    Op.REDUCE: Right.WRITE,
    Op.ATOMIC: Right.ATOMIC,
}


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """Bytes start .. start + size of the owner's memory, for one other node."""

    start: int
    size: int
    node: int = field(compare=False)
    rights: Right = field(compare=False)


@dataclass(frozen=True, slots=True)
class Refusal:
    """One report."""

    node: int
    op: Op
    offset: int
    length: int
    fault: Fault


class Windows:
    """The windows of one owner. Windows for one node do not overlap, so that one look decides."""

    def __init__(self, memory_bytes: int, *, keep_reports: int = 256) -> None:
        self._memory = memory_bytes
        self._granted: dict[int, list[Window]] = {}
        self.open = True
        """False: every access is refused and no window granted, whatever was before."""
        self.refused: Counter[tuple[int, Fault]] = Counter()
        """By node and reason, for ever."""
        self.reports: deque[Refusal] = deque(maxlen=keep_reports)
        """The last ones, oldest first."""

    def grant(self, node: int, start: int, size: int, rights: Right) -> Window:
        """Raises `BadTransaction` while closed, outside the memory, or over a window of `node`."""
        if not self.open:
            raise BadTransaction("the memory is closed to others: open it first")
        if start < 0 or size < 1 or start + size > self._memory:
            raise BadTransaction(
                f"a window of {size} bytes at {start:#x}: the memory has {self._memory}"
            )
        mine = self._granted.setdefault(node, [])
        window = Window(start, size, node, rights)
        for other in mine:
            if start < other.start + other.size and other.start < start + size:
                raise BadTransaction(
                    f"node {node} already has a window at {other.start:#x}: revoke it first"
                )
        insort(mine, window)
        return window

    def revoke(self, window: Window) -> None:
        """Take it back. Unknown ones are no error: revoking twice changes nothing."""
        mine = self._granted.get(window.node, [])
        self._granted[window.node] = [one for one in mine if one is not window]

    @property
    def granted(self) -> int:
        return sum(map(len, self._granted.values()))

    def check(self, node: int, op: Op, offset: int, length: int) -> Fault | None:
        """None if allowed; else why not, counted and reported."""
        fault = self._judge(node, op, offset, length)
        if fault is not None:
            self.refused[node, fault] += 1
            self.reports.append(Refusal(node, op, offset, length, fault))
        return fault

    def _judge(self, node: int, op: Op, offset: int, length: int) -> Fault | None:
        if length < 1:
            return Fault.BAD_LENGTH
        mine = self._granted.get(node, []) if self.open else []
        at = bisect_right(mine, offset, key=lambda window: window.start) - 1
        if at < 0 or offset + length > mine[at].start + mine[at].size:
            return Fault.NO_WINDOW
        return None if NEEDS[op] in mine[at].rights else Fault.NO_RIGHT
