"""Which block lies in which slot of one segment file. Pure: no file, no clock, no lock.

    free ──take──> filling ──commit──> ready ──(evicted by a later take)──> filling
      ^               │                  │
      └────abort──────┴──────forget──────┘

A slot that is being read is not handed out again before its last reader has let go. A block may be
*kept* until a time on the wall clock: until then it is evicted only when the segment shrinks.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from starloom.kv.policies import Lru, Policy


class Place(NamedTuple):
    """A slot and what is in it, as its header on disk says."""

    slot: int
    key: bytes
    length: int
    generation: int
    keep_until_s: float = 0.0
    """Seconds since the epoch; 0 for a block that may go at any time."""


EMPTY = Place(-1, b"", 0, 0)


@dataclass(slots=True)
class _Slot:
    place: Place = EMPTY
    ready: bool = False
    readers: int = 0


class SlotTable:
    """Slots, keys, readers and eviction of one segment. Not thread-safe."""

    def __init__(self, slots: int, policy: Callable[[int], Policy] = Lru) -> None:
        self.slots = slots
        """How many there are; more than these may still be in use for a moment after a shrink."""
        self._slots = [_Slot() for _ in range(slots)]
        self._free = list(reversed(range(slots)))
        self._index: dict[bytes, int] = {}
        self._filling: set[bytes] = set()
        self._policy = policy(slots)
        self._generation = 0
        self.evicted = 0

    def __contains__(self, key: bytes) -> bool:
        return key in self._index

    def __len__(self) -> int:
        return len(self._index)

    def busy(self, key: bytes) -> bool:
        """Whether the block is held or on its way in."""
        return key in self._index or key in self._filling

    def length(self, key: bytes) -> int | None:
        """Bytes of a held block."""
        slot = self._index.get(key)
        return None if slot is None else self._slots[slot].place.length

    def restore(self, found: Iterable[Place]) -> None:
        """Take up what a scan of the file has found. Of two blocks of one key the later counts.

        Recency is the order of writing: demotion writes tails first, so heads stay younger.
        """
        free = set(self._free)
        for place in sorted(found, key=lambda each: each.generation):
            self._generation = max(self._generation, place.generation)
            free.discard(place.slot)
            old = self._index.get(place.key)
            if old is not None:
                self._slots[old] = _Slot()
                free.add(old)
            self._slots[place.slot] = _Slot(place, ready=True)
            self._index[place.key] = place.slot
            self._policy.touch([place.key])
        self._free = sorted(free, reverse=True)

    def take(
        self, key: bytes, length: int, now_s: float, keep_until_s: float = 0.0
    ) -> Place | None:
        """A slot to write a block into: a free one, else a victim's; None when none may go.

        None too for a block on its way in. A block that is held already is replaced by `commit`.
        """
        if key in self._filling:
            return None
        slot = self._room(key, now_s)
        if slot is None:
            return None
        self._generation += 1
        place = Place(slot, key, length, self._generation, keep_until_s)
        self._slots[slot] = _Slot(place)
        self._filling.add(key)
        return place

    def commit(self, place: Place) -> bool:
        """The block is on disk: readers find it. False where its slot was cut off meanwhile."""
        self._filling.discard(place.key)
        if place.slot >= self.slots:
            self._give_back(place.slot)
            return False
        if place.key in self._index:
            self.forget(self._index[place.key])
        self._slots[place.slot].ready = True
        self._index[place.key] = place.slot
        self._policy.touch([place.key])
        return True

    def abort(self, place: Place) -> None:
        """The block did not get to disk."""
        self._filling.discard(place.key)
        self._give_back(place.slot)

    def hold(self, key: bytes) -> Place | None:
        """Keep a block's slot from reuse while it is read, and touch it."""
        slot = self._index.get(key)
        if slot is None:
            return None
        self._slots[slot].readers += 1
        self._policy.touch([key])
        return self._slots[slot].place

    def release(self, place: Place) -> None:
        """A reader is done."""
        state = self._slots[place.slot]
        state.readers -= 1
        if not state.ready and not state.readers:
            self._give_back(place.slot)

    def drop(self, place: Place) -> None:
        """What was to be read there is not what was put: forget it, if it is still the same."""
        if self._slots[place.slot].place == place:
            self.forget(place.slot)

    def forget(self, slot: int) -> None:
        """The block in a ready slot is no longer wanted, or no longer what was put there."""
        state = self._slots[slot]
        if not state.ready:
            return
        state.ready = False
        del self._index[state.place.key]
        self._policy.forget(state.place.key)
        if not state.readers:
            self._give_back(slot)

    def resize(self, slots: int, now_s: float) -> list[bytes]:
        """Have `slots` slots from now on; returns keys that the caller must move to lower slots.

        Growing gives room at once. Shrinking evicts what is too much, kept blocks last; what then
        lies beyond the end and is not moved (see `evict_beyond`) goes too.
        """
        old, self.slots = self.slots, slots
        if slots >= old:
            known = len(self._slots)
            self._slots += [_Slot() for _ in range(known, slots)]
            self._free = [*reversed(range(known, slots)), *self._free]
            self._free += [s for s in range(old, min(known, slots)) if self._idle(s)]
            return []
        self._free = [slot for slot in self._free if slot < slots]
        while len(self._index) + len(self._filling) > slots and self._index:
            slot = self._victim(now_s)
            self._evict(slot if slot is not None else self._soonest())
        return [
            self._slots[slot].place.key for slot in sorted(self._index.values()) if slot >= slots
        ]

    def evict_beyond(self) -> None:
        """Give up ready blocks beyond the end."""
        for slot in [slot for slot in self._index.values() if slot >= self.slots]:
            self._evict(slot)

    def trim(self) -> bool:
        """Drop slots beyond the end if nobody uses one of them; False while somebody does."""
        if any(not self._idle(slot) for slot in range(self.slots, len(self._slots))):
            return False
        del self._slots[self.slots :]
        return True

    def places(self) -> Iterator[Place]:
        """What is held now."""
        return (self._slots[slot].place for slot in self._index.values())

    def _idle(self, slot: int) -> bool:
        state = self._slots[slot]
        return state.place is EMPTY and not state.readers

    def _give_back(self, slot: int) -> None:
        state = self._slots[slot]
        state.place, state.ready = EMPTY, False
        if slot < self.slots:
            self._free.append(slot)

    def _room(self, key: bytes, now_s: float) -> int | None:
        if not self._free:
            slot = self._victim(now_s, but=key)
            if slot is None:
                return None
            self._evict(slot)
        return self._free.pop() if self._free else None

    def _victim(self, now_s: float, but: bytes = b"") -> int | None:
        def stays(key: bytes) -> bool:
            slot = self._index[key]
            kept = self._slots[slot].place.keep_until_s > now_s
            return key == but or kept or self._slots[slot].readers > 0

        key = self._policy.victim(stays)
        return None if key is None else self._index[key]

    def _soonest(self) -> int:
        """Of blocks that are all kept or read, the one whose time ends first."""
        return min(self._index.values(), key=lambda slot: self._slots[slot].place.keep_until_s)

    def _evict(self, slot: int) -> None:
        self.evicted += 1
        self.forget(slot)
