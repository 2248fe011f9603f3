"""The prefix index against a plain one: sets of keys, one a worker."""

from collections import OrderedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from starloom.serve.schedule.index import STRIDE, PrefixIndex


class Plain:
    """The oracle: keys of at most `capacity` blocks, least recently used out first."""

    def __init__(self, capacity):
        self.capacity = capacity
        self.keys = OrderedDict()

    def overlap(self, keys):
        for at, key in enumerate(keys):
            if key not in self.keys:
                return at
        return len(keys)

    def add(self, keys):
        for key in reversed(keys):
            self.keys[key] = None
            self.keys.move_to_end(key)
        while len(self.keys) > self.capacity:
            self.keys.popitem(last=False)


def chain(*turns):
    """Keys of a conversation: turn (name, n) adds n keys, which depend on all before."""
    keys, path = [], ()
    for name, count in turns:
        for at in range(count):
            path = (path, name, at)
            keys.append((hash(path) & (2**63 - 1)).to_bytes(8) + bytes(24))
    return keys


TURNS = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 40)), min_size=1, max_size=4)


@given(st.lists(st.tuples(st.integers(0, 2), TURNS), max_size=12), TURNS, st.booleans())
@settings(deadline=None)
def test_overlaps_are_those_of_plain_sets(sends, asked, exact):
    """Whatever was sent to whom, each worker's overlap is that of a set of its keys."""
    index, plain = PrefixIndex(exact=exact), [Plain(10**6) for _ in range(3)]
    workers = [index.join(10**6) for _ in range(3)]
    for at, turns in sends:
        index.add(workers[at], chain(*turns))
        plain[at].add(chain(*turns))
        index.check_integrity()
    assert index.overlaps(chain(*asked)) == [one.overlap(chain(*asked)) for one in plain]


@given(st.integers(1, 60), st.lists(TURNS, min_size=1, max_size=10))
@settings(deadline=None)
def test_a_full_worker_forgets_tails_of_what_it_used_least(capacity, sends):
    """A bounded index holds exactly as many blocks as a plain LRU, and as much of the newest."""
    index, plain = PrefixIndex(), Plain(capacity)
    worker = index.join(capacity)
    for turns in sends:
        index.add(worker, chain(*turns))
        plain.add(chain(*turns))
        index.check_integrity()
        assert index.blocks(worker) == len(plain.keys)
        assert index.overlaps(chain(*turns)) == [plain.overlap(chain(*turns))]


class Events(RuleBasedStateMachine):
    """Workers store and remove blocks in any order: leading overlaps stay exact."""

    def __init__(self):
        super().__init__()
        self.index = PrefixIndex(exact=True)
        self.held = [set(), set()]
        for _ in self.held:
            self.index.join(1 << 40)
        self.seen = [chain((0, 3))]

    @rule(worker=st.integers(0, 1), turns=TURNS, cut=st.integers(0, 100))
    def store(self, worker, turns, cut):
        keys = chain(*turns)
        start = min(cut, len(keys) - 1)
        if not start or any(keys[start - 1] in seen for seen in self.seen):
            parent = keys[start - 1] if start else None
            before = self.index.overlaps(keys[:start])
            self.index.stored(worker, parent, keys[start:])
            if parent is None or self.known(keys[:start]):
                self.held[worker].update(keys[start:])
                self.seen.append(keys)
            assert self.index.overlaps(keys[:start])[1 - worker] == before[1 - worker]

    def known(self, keys):
        """Whether the index has a place for what follows `keys`."""
        at = self.index._find(keys)[1]
        return at == len(keys)

    @rule(worker=st.integers(0, 1), data=st.data())
    def remove(self, worker, data):
        if self.held[worker]:
            gone = data.draw(st.lists(st.sampled_from(sorted(self.held[worker])), max_size=5))
            self.index.removed(worker, gone)
            self.held[worker] -= set(gone)

    @rule(worker=st.integers(0, 1))
    def clear(self, worker):
        self.index.clear(worker)
        self.held[worker].clear()

    @invariant()
    def leading_blocks_are_exact(self):
        self.index.check_integrity()
        for keys in self.seen[-4:]:
            for worker, held in enumerate(self.held):
                leading = next((at for at, key in enumerate(keys) if key not in held), len(keys))
                assert self.index.overlaps(keys)[worker] == leading


TestEvents = Events.TestCase
TestEvents.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)


def test_unknown_parents_and_keys_are_passed_over():
    """A block whose prefix was never seen, or that nobody stored, changes nothing."""
    index = PrefixIndex(exact=True)
    worker = index.join(100)
    keys = chain((0, 8))
    index.stored(worker, keys[3], keys[4:])
    index.removed(worker, keys)
    assert index.overlaps(keys) == [0]
    assert index.blocks(worker) == 0


def test_what_nobody_holds_is_forgotten():
    """Cleared workers leave nothing behind: memory is bounded by what is held."""
    index = PrefixIndex()
    workers = [index.join(1000) for _ in range(3)]
    for worker in workers:
        index.add(worker, chain((0, 20), (worker, 50)))
    for worker in workers:
        index.clear(worker)
    assert not index._at
    assert index.overlaps(chain((0, 20))) == [0, 0, 0]


@pytest.mark.parametrize("count", [1, STRIDE - 1, STRIDE, STRIDE + 1, 5 * STRIDE + 3])
def test_every_length_is_found_to_the_block(count):
    """The stride of the table is no granularity of what is answered."""
    index = PrefixIndex()
    worker = index.join(1000)
    keys = chain((0, count))
    index.add(worker, keys)
    assert index.overlaps(keys + chain((1, 3))) == [count]
    for cut in range(count + 1):
        assert index.overlaps(keys[:cut]) == [cut]
