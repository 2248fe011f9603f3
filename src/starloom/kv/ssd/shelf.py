"""One segment file with its table, and the jobs that move blocks to and from it."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from starloom.kv.policies import Policy
from starloom.kv.ssd.base import Done
from starloom.kv.ssd.segment import Segment
from starloom.kv.ssd.slots import Place, SlotTable


class Shelf:
    """A segment and its table. The tier's lock guards the table."""

    def __init__(self, segment: Segment, policy: Callable[[int], Policy]) -> None:
        self.segment = segment
        self.table = SlotTable(segment.slots, policy)
        self.resizing = threading.Lock()


@dataclass(slots=True, eq=False)
class Job:
    """A block on its way to disk, or from there."""

    shelf: Shelf
    place: Place
    data: memoryview
    done: Done
    writes: bool

    @property
    def size(self) -> int:
        return len(self.data)

    def leads(self, other: "Job") -> bool:
        """Whether the other block lies right behind this one and goes the same way."""
        return (
            self.shelf is other.shelf
            and self.writes == other.writes
            and self.shelf.segment.joins(self.place, other.place)
        )

    def settle(self, ok: bool | None) -> bool:
        """Under the tier's lock: tell the table what became of it; whether all is well.

        None: it was not tried, so what is on disk is as good as before.
        """
        table = self.shelf.table
        if self.writes:
            if ok:
                return table.commit(self.place)
            table.abort(self.place)
            return False
        if ok is False:
            table.drop(self.place)
        table.release(self.place)
        return bool(ok)
