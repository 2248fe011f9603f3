"""The index of a pool: which key lies in which slot, who reads it, who fills it.

Pure: no sockets, no clock, no memory mapped. A slot is in one of three states:

    free ──reserve──> filling ──publish──> ready ──(evicted by a later reserve)──> filling
      ^                  │
      └──finish, drop────┘

Only ready slots are ever found, only ready slots without pins are evicted, and a slot's generation
grows whenever it is reserved. Pins and reservations belong to an *owner* (a connection) and end
with it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from starloom.kv.base import PoolStat
from starloom.kv.errors import PoolProtocolError
from starloom.kv.layout import Block, Layout
from starloom.kv.policies import Lru, NewPolicy

MAX_LEASES = 65536
"""Open leases of one owner. More can only be a leak."""


@dataclass(slots=True)
class _Slot:
    block: Block
    key: bytes = b""
    pins: int = 0
    ready: bool = False


@dataclass(slots=True)
class _Put:
    """A put on its way: what it keeps from eviction, and what it has yet to fill."""

    keys: list[bytes]
    held: list[int] = field(default_factory=list)
    filling: set[int] = field(default_factory=set)


@dataclass(slots=True)
class _Owner:
    leases: dict[int, list[int]] = field(default_factory=dict)
    put: _Put | None = None


class Store:
    """Slots, keys, pins and eviction of one pool. Not thread-safe: the shell serialises."""

    def __init__(
        self,
        layout: Layout,
        policy: NewPolicy = Lru,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """`clock` gives the seconds that policies which learn pauses count in."""
        self._layout = layout
        self._clock = clock
        self._slots = [_Slot(Block(slot, 0, 0)) for slot in range(layout.slots)]
        classes = range(len(layout.classes))
        self._free = [list(reversed(layout.slots_of(index))) for index in classes]
        self._policies = [policy(each.slots) for each in layout.classes]
        self._index: dict[bytes, int] = {}
        self._owners: dict[int, _Owner] = {}
        self._next_owner = self._next_lease = 1
        self._lookups = self._hits = self._misses = 0
        self._stored = self._rejected = self._evicted = 0
        self.ssd_lost = False
        """Whether there should be an SSD tier below, and none could be opened."""
        self.on_evict: Callable[[bytes], None] | None = None
        """Told of each block that is evicted, just before its slot is used again."""

    def open(self) -> int:
        """A new owner of pins and reservations."""
        owner, self._next_owner = self._next_owner, self._next_owner + 1
        self._owners[owner] = _Owner()
        return owner

    def drop(self, owner: int) -> None:
        """The owner is gone: its pins and unpublished slots come back. May be called twice."""
        if owner in self._owners:
            self.finish(owner)
            for slots in self._owners.pop(owner).leases.values():
                self._unpin(slots)

    def longest_prefix(self, keys: Sequence[bytes]) -> int:
        """How many leading keys are ready. Changes nothing, not even recency."""
        return len(self._prefix(keys))

    def lengths(self, keys: Sequence[bytes]) -> list[int]:
        """Bytes of each block of the longest ready prefix. Changes nothing."""
        return [self._slots[slot].block.length for slot in self._prefix(keys)]

    def pin(self, owner: int, keys: Sequence[bytes]) -> tuple[int, list[Block]]:
        """Pin the longest ready prefix and touch it: a lease (0 when nothing is found), its blocks.

        Raises `PoolProtocolError` when the owner holds too many leases.
        """
        leases = self._owners[owner].leases
        if len(leases) >= MAX_LEASES:
            raise PoolProtocolError(f"{MAX_LEASES} leases are open on one connection")
        slots = self._prefix(keys)
        self._lookups += 1
        self._hits += len(slots)
        self._misses += len(keys) - len(slots)
        if not slots:
            return 0, []
        states = [self._slots[slot] for slot in slots]
        for state in states:
            state.pins += 1
        blocks = [state.block for state in states]
        self._touch(keys[: len(slots)])
        return self._lease(owner, slots), blocks

    def unpin(self, owner: int, lease: int) -> None:
        """End a lease. Raises `PoolProtocolError` for one that the owner does not hold."""
        slots = self._owners[owner].leases.pop(lease, None)
        if slots is None:
            raise PoolProtocolError(f"lease {lease} is not open on this connection")
        self._unpin(slots)

    @property
    def changes(self) -> int:
        """Grows whenever a block is published or evicted."""
        return self._stored + self._evicted

    def free(self, index: int) -> int:
        """Slots of a class that hold nothing."""
        return len(self._free[index])

    def coldest(self, index: int, passed: Callable[[bytes], bool], ahead: int) -> bytes | None:
        """Of the `ahead` blocks of a class that go next, the first that is not `passed` over."""
        left = ahead

        def skip(key: bytes) -> bool:
            nonlocal left
            if not passed(key):
                return self._pinned(key)
            left -= 1
            return left >= 0

        key = self._policies[index].victim(skip)
        return None if key is None or left < 0 else key

    def hold(self, owner: int, key: bytes) -> tuple[int, Block]:
        """A lease on one ready block that neither counts as a lookup nor renews it."""
        slot = self._index[key]
        self._slots[slot].pins += 1
        return self._lease(owner, [slot]), self._slots[slot].block

    def reserve(
        self, owner: int, wants: Sequence[tuple[bytes, int]], max_bytes: int
    ) -> list[tuple[int, Block]]:
        """Take slots for the blocks (key, size) that nobody holds or fills, in prefix order.

        Returns positions in `wants` and their slots: at least one where there is room, then as
        many as `max_bytes` allow. Until `finish` the held ones among `wants` are kept too, so that
        a sequence longer than the pool never pushes out its own beginning. Raises `BlockTooLarge`
        and `PoolProtocolError` (two puts at once) before anything is changed.
        """
        classes = [self._layout.class_for(size) for _, size in wants]
        holder = self._owners[owner]
        if holder.put is not None:
            raise PoolProtocolError("a put is on its way on this connection")
        holder.put = put = _Put([key for key, _ in wants])
        for key in put.keys:
            self._keep(put, key)
        taken: list[tuple[int, Block]] = []
        total = 0
        for position, (key, size) in enumerate(wants):
            if key in self._index:
                continue
            total += size
            if taken and total > max_bytes:
                break
            slot = self._take(classes[position])
            if slot is None:
                self._rejected += len({key for key in put.keys if key not in self._index})
                break
            taken.append((position, self._fill(slot, key, size)))
            put.filling.add(slot)
        return taken

    def publish(self, owner: int, slot: int) -> None:
        """The slot's bytes are whole: from now on readers find the block."""
        put = self._owners[owner].put
        if put is None or slot not in put.filling:
            raise PoolProtocolError(f"slot {slot} is not being filled on this connection")
        put.filling.remove(slot)
        self._slots[slot].ready = True
        self._stored += 1

    def finish(self, owner: int) -> None:
        """End the owner's put, if there is one; what was not published is given back."""
        holder = self._owners[owner]
        if holder.put is None:
            return
        put, holder.put = holder.put, None
        for slot in put.filling:
            del self._index[self._slots[slot].key]
            self._free[self._layout.class_of(slot)].append(slot)
        self._unpin(put.held)
        self._touch([key for key in put.keys if self._ready(key)])

    def stat(self) -> PoolStat:
        return PoolStat(
            slots=self._layout.slots,
            slot_bytes=self._layout.slot_bytes,
            blocks=sum(slot.ready for slot in self._slots),
            pinned_blocks=sum(slot.pins > 0 for slot in self._slots),
            connections=len(self._owners),
            lookups=self._lookups,
            hit_blocks=self._hits,
            missed_blocks=self._misses,
            put_blocks=self._stored,
            rejected_blocks=self._rejected,
            evicted_blocks=self._evicted,
            ssd_healthy=not self.ssd_lost,
        )

    def _lease(self, owner: int, slots: list[int]) -> int:
        lease, self._next_lease = self._next_lease, self._next_lease + 1
        self._owners[owner].leases[lease] = slots
        return lease

    def _prefix(self, keys: Sequence[bytes]) -> list[int]:
        slots: list[int] = []
        for key in keys:
            slot = self._index.get(key)
            if slot is None or not self._slots[slot].ready:
                break
            slots.append(slot)
        return slots

    def _ready(self, key: bytes) -> bool:
        slot = self._index.get(key)
        return slot is not None and self._slots[slot].ready

    def _pinned(self, key: bytes) -> bool:
        return self._slots[self._index[key]].pins > 0

    def _keep(self, put: _Put, key: bytes) -> None:
        if self._ready(key):
            slot = self._index[key]
            self._slots[slot].pins += 1
            put.held.append(slot)

    def _unpin(self, slots: Sequence[int]) -> None:
        for slot in slots:
            self._slots[slot].pins -= 1

    def _touch(self, keys: Sequence[bytes]) -> None:
        """Tell the policy of each class which of its blocks were used."""
        if len(self._policies) == 1:
            self._policies[0].touch(keys, self._clock())
            return
        groups: list[list[bytes]] = [[] for _ in self._policies]
        for key in keys:
            groups[self._layout.class_of(self._index[key])].append(key)
        for policy, group in zip(self._policies, groups, strict=True):
            policy.touch(group, self._clock())

    def _take(self, index: int) -> int | None:
        """A slot of a class: a free one, else the policy's victim's, else None."""
        if self._free[index]:
            return self._free[index].pop()
        key = self._policies[index].victim(self._pinned)
        if key is None:
            return None
        if self.on_evict is not None:
            self.on_evict(key)
        self._policies[index].forget(key)
        self._evicted += 1
        slot = self._index.pop(key)
        self._slots[slot].ready = False
        return slot

    def _fill(self, slot: int, key: bytes, size: int) -> Block:
        state = self._slots[slot]
        state.key, state.ready = key, False
        state.block = Block(slot, size, state.block.generation + 1)
        self._index[key] = slot
        return state.block
