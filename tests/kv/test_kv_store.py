"""The pure index of a pool: what is found, what is evicted, and that nothing is ever lost."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from starloom.kv.arena import Arena
from starloom.kv.errors import BlockTooLarge, PoolProtocolError
from starloom.kv.layout import Layout, SlotClass
from starloom.kv.store import MAX_LEASES, Store

HUGE = 1 << 40


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def small_store(slots: int = 4) -> tuple[Store, int]:
    store = Store(Layout([SlotClass(64, slots)]))
    return store, store.open()


def put(store: Store, owner: int, numbers, size: int = 10) -> list[int]:
    """Store blocks of these numbers; returns the numbers that were taken."""
    taken = store.reserve(owner, [(key(number), size) for number in numbers], HUGE)
    for _, block in taken:
        store.publish(owner, block.slot)
    store.finish(owner)
    return [numbers[position] for position, _ in taken]


def held(store: Store, numbers) -> list[int]:
    return [number for number in numbers if store.longest_prefix([key(number)])]


def test_a_reserved_block_is_not_found_before_it_is_published():
    """Between reserve and publish a block is a miss for everybody, and nobody else fills it."""
    store, owner = small_store()
    other = store.open()
    [(_, block)] = store.reserve(owner, [(key(1), 10)], HUGE)
    assert store.longest_prefix([key(1)]) == 0
    assert store.reserve(other, [(key(1), 10)], HUGE) == []
    store.publish(owner, block.slot)
    assert store.longest_prefix([key(1)]) == 1


def test_eviction_takes_the_tail_of_the_oldest_sequence_first():
    """A prefix outlives its tail, and a sequence that was read outlives one that was not."""
    store, owner = small_store(6)
    put(store, owner, [1, 2, 3])
    put(store, owner, [11, 12, 13])
    lease, _ = store.pin(owner, [key(1), key(2)])
    store.unpin(owner, lease)
    assert put(store, owner, [21]) == [21]
    assert held(store, [1, 2, 3, 11, 12, 13]) == [1, 2, 11, 12, 13]
    assert put(store, owner, [22, 23]) == [22, 23]
    assert held(store, [1, 2, 11, 12, 13]) == [1, 2, 11]


def test_asking_for_a_prefix_renews_nothing():
    """A thousand lookups do not save a block from eviction."""
    store, owner = small_store(2)
    put(store, owner, [1])
    put(store, owner, [2])
    for _ in range(1000):
        store.longest_prefix([key(1)])
    put(store, owner, [3])
    assert held(store, [1, 2, 3]) == [2, 3]


def test_a_pinned_block_is_never_evicted():
    """With every slot pinned a put stores nothing and says so; after release it works."""
    store, owner = small_store(2)
    put(store, owner, [1, 2])
    lease, blocks = store.pin(owner, [key(1), key(2)])
    assert len(blocks) == 2
    assert put(store, owner, [3, 4]) == []
    assert store.stat().rejected_blocks == 2
    store.unpin(owner, lease)
    assert put(store, owner, [3, 4]) == [3, 4]


def test_a_sequence_longer_than_the_pool_keeps_its_beginning():
    """Held blocks of a put stay while its tail looks for room, and the tail is left out."""
    store, owner = small_store(4)
    put(store, owner, [1, 2, 3])
    assert put(store, owner, list(range(1, 9))) == [4]
    assert store.longest_prefix([key(number) for number in range(1, 9)]) == 4


def test_a_put_ends_at_its_budget_but_takes_one_block_at_least():
    """`max_bytes` bounds what one round reserves."""
    store, owner = small_store(4)
    wants = [(key(number), 30) for number in range(4)]
    assert [position for position, _ in store.reserve(owner, wants, 60)] == [0, 1]
    store.finish(owner)
    assert [position for position, _ in store.reserve(owner, wants, 1)] == [0]


def test_the_smallest_class_that_fits_is_used():
    """Classes fill independently: small blocks do not push out large ones."""
    store = Store(Layout([SlotClass(1000, 2), SlotClass(10, 2)]))
    owner = store.open()
    put(store, owner, [1, 2], size=1000)
    put(store, owner, [3, 4, 5], size=10)
    assert held(store, [1, 2, 3, 4, 5]) == [1, 2, 3, 4]
    assert put(store, owner, [6], size=11) == [6]
    assert held(store, [1, 2]) == [1]


def test_a_block_that_fits_no_class_is_refused_whole():
    """`BlockTooLarge` comes before anything is reserved."""
    store, owner = small_store()
    with pytest.raises(BlockTooLarge, match="65 bytes"):
        store.reserve(owner, [(key(1), 10), (key(2), 65)], HUGE)
    assert put(store, owner, [1, 2, 3, 4]) == [1, 2, 3, 4]


def test_a_slot_gets_a_new_generation_whenever_it_is_reserved():
    """Two blocks in one slot one after the other never have the same generation."""
    store, owner = small_store(1)
    seen = []
    for number in range(5):
        [(_, block)] = store.reserve(owner, [(key(number), 10)], HUGE)
        seen.append(block.generation)
        if number % 2:
            store.publish(owner, block.slot)
        store.finish(owner)
    assert seen == sorted(set(seen))


def test_strange_requests_are_protocol_errors():
    """Unknown leases and slots, two puts at once, and leaking leases are named."""
    store, owner = small_store()
    for call in (lambda: store.unpin(owner, 7), lambda: store.publish(owner, 0)):
        with pytest.raises(PoolProtocolError):
            call()
    put(store, owner, [1])
    other = store.open()
    lease, _ = store.pin(owner, [key(1)])
    with pytest.raises(PoolProtocolError, match="not open"):
        store.unpin(other, lease)
    store.reserve(owner, [(key(2), 1)], HUGE)
    with pytest.raises(PoolProtocolError, match="on its way"):
        store.reserve(owner, [(key(3), 1)], HUGE)
    for _ in range(MAX_LEASES - 1):
        store.pin(owner, [key(1)])
    with pytest.raises(PoolProtocolError, match="leases are open"):
        store.pin(owner, [key(1)])


CLASSES = [SlotClass(8, 4), SlotClass(32, 3)]
RUNS = st.tuples(st.integers(0, 3), st.integers(1, 6))


def content(number: int) -> bytes:
    """Equal keys have equal contents; lengths vary over both classes."""
    return bytes([number + 1]) * (1 + (number * 7) % 30)


def sequence(run) -> list[int]:
    """Sequences share prefixes: run (2, 5) is a longer one of the same chain as (2, 3)."""
    chain, length = run
    return [chain * 10 + index for index in range(length)]


class PoolMachine(RuleBasedStateMachine):
    """Any mix of connections that read, write in pieces, and die."""

    def __init__(self) -> None:
        super().__init__()
        self.layout = Layout(CLASSES)
        self.arena = Arena(self.layout, share=False)
        self.store = Store(self.layout)
        self.owners: dict[int, dict] = {}
        self.written: set[int] = set()

    def pick(self, choice: int) -> int:
        return sorted(self.owners)[choice % len(self.owners)]

    @rule()
    def connect(self) -> None:
        if len(self.owners) < 3:
            self.owners[self.store.open()] = {"leases": {}, "put": None}

    @precondition(lambda self: self.owners)
    @rule(choice=st.integers(0, 9))
    def killed(self, choice) -> None:
        owner = self.pick(choice)
        self.store.drop(owner)
        del self.owners[owner]

    @precondition(lambda self: self.owners)
    @rule(choice=st.integers(0, 9), run=RUNS)
    def get(self, choice, run) -> None:
        owner, numbers = self.pick(choice), sequence(run)
        expected = self.store.longest_prefix([key(number) for number in numbers])
        lease, blocks = self.store.pin(owner, [key(number) for number in numbers])
        assert len(blocks) == expected
        if lease:
            self.owners[owner]["leases"][lease] = list(zip(numbers, blocks, strict=False))

    @precondition(lambda self: any(state["leases"] for state in self.owners.values()))
    @rule(choice=st.integers(0, 9))
    def release(self, choice) -> None:
        pairs = [(o, lease) for o, state in self.owners.items() for lease in state["leases"]]
        owner, lease = pairs[choice % len(pairs)]
        self.store.unpin(owner, lease)
        del self.owners[owner]["leases"][lease]

    @precondition(lambda self: any(state["put"] is None for state in self.owners.values()))
    @rule(choice=st.integers(0, 9), run=RUNS, max_bytes=st.sampled_from([0, 40, HUGE]))
    def begin_put(self, choice, run, max_bytes) -> None:
        idle = [owner for owner, state in self.owners.items() if state["put"] is None]
        owner, numbers = idle[choice % len(idle)], sequence(run)
        wants = [(key(number), len(content(number))) for number in numbers]
        taken = self.store.reserve(owner, wants, max_bytes)
        self.owners[owner]["put"] = [(numbers[position], block) for position, block in taken]
        for _, block in taken:
            self.arena.claim(block)[:] = b"\0" * block.length  # half-written

    @precondition(lambda self: any(state["put"] for state in self.owners.values()))
    @rule(choice=st.integers(0, 9))
    def fill_one(self, choice) -> None:
        busy = [owner for owner, state in self.owners.items() if state["put"]]
        owner = busy[choice % len(busy)]
        number, block = self.owners[owner]["put"].pop(0)
        self.arena.claim(block)[:] = content(number)
        self.store.publish(owner, block.slot)
        self.written.add(number)

    @precondition(lambda self: self.owners)
    @rule(choice=st.integers(0, 9))
    def end_put(self, choice) -> None:
        owner = self.pick(choice)
        self.store.finish(owner)
        self.owners[owner]["put"] = None

    @invariant()
    def leases_show_what_was_put(self) -> None:
        for state in self.owners.values():
            for lease in state["leases"].values():
                for number, block in lease:
                    assert bytes(self.arena.view(block)) == content(number)
                    assert self.arena.generations[block.slot] == block.generation
                    assert number in self.written

    @invariant()
    def references_balance(self) -> None:
        pins = [0] * self.layout.slots
        filling: set[int] = set()
        for owner in self.store._owners.values():
            for slot in [slot for lease in owner.leases.values() for slot in lease]:
                pins[slot] += 1
            for slot in owner.put.held if owner.put else []:
                pins[slot] += 1
            filling |= owner.put.filling if owner.put else set()
        assert pins == [slot.pins for slot in self.store._slots]
        ready = {number for number, slot in enumerate(self.store._slots) if slot.ready}
        free = [slot for slots in self.store._free for slot in slots]
        assert sorted([*free, *filling, *ready]) == list(range(self.layout.slots))
        assert set(self.store._index.values()) == filling | ready
        assert all(self.store._slots[slot].key == k for k, slot in self.store._index.items())

    @invariant()
    def capacity_holds(self) -> None:
        stat = self.store.stat()
        assert stat.blocks <= stat.slots
        assert stat.connections == len(self.owners)
        assert stat.put_blocks - stat.evicted_blocks == stat.blocks

    def teardown(self) -> None:
        for owner in list(self.owners):
            self.store.drop(owner)
        assert self.store.stat().pinned_blocks == 0
        assert len(self.store._index) == self.store.stat().blocks


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
