"""Eviction policies: what all of them promise, and small cases worked by hand."""

import contextlib
import random
from collections.abc import Callable, Sequence
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starloom.kv import LocalPool, SlotClass
from starloom.kv.policies import (
    POLICIES,
    Arc,
    Belady,
    Fifo,
    Lfu,
    Lru,
    Mq,
    PolicyOf,
    PrefixPolicy,
    Returning,
    S3Fifo,
    Sieve,
    Starloom,
    WTinyLfu,
    curves,
)
from starloom.site.pool import KvPool

Trace = list[tuple[float, list[int]]]
NAMES = sorted(POLICIES)


@st.composite
def traces(draw: st.DrawFn) -> Trace:
    """Requests over a random forest: each is a path from a root, or a new branch of one."""
    seed = draw(st.integers(0, 2**32))
    rng = random.Random(seed)
    paths: list[list[int]] = [[number] for number in range(rng.randint(1, 3))]
    fresh, at_s, trace = 100, 0.0, []
    for _ in range(draw(st.integers(1, 60))):
        path = rng.choice(paths)
        path = path[: rng.randint(1, len(path))]
        new = rng.randint(0, 3)
        path = path + list(range(fresh, fresh + new))
        fresh += new
        paths.append(path)
        at_s += rng.expovariate(0.1)
        trace.append((at_s, path))
    return trace


def run(policy: PolicyOf[int], trace: Trace, capacity: int) -> tuple[int, list[int], set[int]]:
    """Hits, victims in order, and what is held, checked for broken chains at every step."""
    held: set[int] = set()
    parents: dict[int, int | None] = {}
    hits, victims = 0, []
    for at_s, path in trace:
        hits += next((at for at, key in enumerate(path) if key not in held), len(path))
        policy.touch(path, at_s)
        held.update(path)
        parents.update(zip(path, [None, *path], strict=False))
        while len(held) > capacity:
            victim = policy.victim(lambda _: False)
            assert victim is not None
            assert policy.victim(lambda _: False) == victim, "asked twice, another answer"
            assert victim in held
            policy.forget(victim)
            held.remove(victim)
            victims.append(victim)
        assert all(parents[key] is None or parents[key] in held for key in held)
    return hits, victims, held


def make(name: str, capacity: int, trace: Trace) -> PolicyOf[int]:
    if name == "belady":
        return Belady(capacity, [path for _, path in trace])
    if name == "returning":
        return Returning(capacity, [path for _, path in trace])
    return POLICIES[name](capacity)  # type: ignore[return-value]


@pytest.mark.parametrize("name", [*NAMES, "belady", "returning"])
@settings(max_examples=40, deadline=None)
@given(trace=traces(), capacity=st.integers(1, 30))
def test_no_chain_is_ever_broken(name: str, trace: Trace, capacity: int):
    """Capacity is kept, every held block has its whole prefix, and runs repeat themselves."""
    hits, victims, held = run(make(name, capacity, trace), trace, capacity)
    assert len(held) <= capacity
    assert run(make(name, capacity, trace), trace, capacity) == (hits, victims, held)


@settings(max_examples=60, deadline=None)
@given(trace=traces(), capacity=st.integers(1, 30))
def test_belady_is_the_bound(trace: Trace, capacity: int):
    """Nobody finds more than who knows the future."""
    bound, _, _ = run(make("belady", capacity, trace), trace, capacity)
    for name in [*NAMES, "returning"]:
        assert run(make(name, capacity, trace), trace, capacity)[0] <= bound, name


def most_hits(trace: Trace, capacity: int) -> int:
    """The best of all ways to evict, by trying them: sets that a pool may hold, and their hits."""
    best: dict[frozenset[int], int] = {frozenset(): 0}
    for _, path in trace:
        after: dict[frozenset[int], int] = {}
        for held, hits in best.items():
            found = next((at for at, key in enumerate(path) if key not in held), len(path))
            pending = [held | set(path)]
            seen = set(pending)
            while pending:
                one = pending.pop()
                if len(one) <= capacity:
                    after[one] = max(after.get(one, 0), hits + found)
                    continue
                for key in one:
                    if (less := one - {key}) not in seen:
                        seen.add(less)
                        pending.append(less)
        best = after
    return max(best.values())


@pytest.mark.parametrize("seed", range(12))
def test_belady_is_reached_by_nothing_better(seed: int):
    """On small cases trying every way of evicting finds as many hits as Belady, and no more."""
    rng = random.Random(seed)
    shapes = [[1], [1, 2], [1, 2, 3], [1, 4], [5], [5, 6], [5, 6, 7]]
    trace = [(float(at), rng.choice(shapes)) for at in range(9)]
    for capacity in (2, 3, 4):
        assert run(make("belady", capacity, trace), trace, capacity)[0] == most_hits(
            trace, capacity
        )


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=30, deadline=None)
@given(trace=traces(), seed=st.integers(0, 2**32))
def test_pinned_blocks_stay(name: str, trace: Trace, seed: int):
    """With prefixes pinned a victim is unpinned and a leaf; with all pinned there is none."""
    rng = random.Random(seed)
    policy = make(name, 10, trace)
    parents: dict[int, int | None] = {}
    for at_s, path in trace:
        policy.touch(path, at_s)
        parents.update(zip(path, [None, *path], strict=False))
        pins = {key for one in rng.choices(trace, k=2) for key in one[1] if key in parents}
        victim = policy.victim(pins.__contains__)
        if victim is None:
            assert pins >= parents.keys()
        else:
            assert victim not in pins
            assert victim not in parents.values()
        assert policy.victim(lambda _: True) is None


def test_forgetting_is_forgiving():
    """Unknown blocks, blocks with others behind them and repeated keys do no harm."""
    for name in NAMES:
        policy = make(name, 4, [])
        policy.forget(9)
        assert policy.victim(lambda _: False) is None
        policy.touch([1, 2, 3, 2], 1.0)
        policy.forget(2)
        policy.touch([2, 1], 2.0)
        left = {1, 2, 3}
        while left:
            victim = policy.victim(lambda _: False)
            assert victim in left, name
            policy.forget(victim)
            left.remove(victim)
        assert policy.victim(lambda _: False) is None


def test_room_for_nothing_is_refused():
    """A capacity below one block is a mistake of the caller."""
    with pytest.raises(ValueError, match="at least one"):
        Lru(0)


def victims(policy: PrefixPolicy[str], letters: Sequence[str], capacity: int) -> str:
    """Victims of single-block requests, room being made before each one."""
    held: set[str] = set()
    gone = ""
    for at, letter in enumerate(letters):
        if letter not in held and len(held) == capacity:
            victim = policy.victim(lambda _: False)
            assert victim is not None
            policy.forget(victim)
            held.remove(victim)
            gone += victim
        policy.touch([letter], float(at))
        held.add(letter)
    return gone


@pytest.mark.parametrize(
    ("policy", "letters", "gone"),
    [
        # a is used again, so b is the one used longest ago; then c
        (Lru, "abcade", "bc"),
        # uses change nothing
        (Fifo, "abcade", "ab"),
        # a: 2 uses, b: 3; c goes, then d, then e
        (Lfu, "ababbcdef", "cde"),
        # the hand forgives a, takes b and stays; then c; d e are newer
        (Sieve, "abcade", "bc"),
        # the hand forgives a, takes b; forgives c, takes d, the newest; begins anew and takes a
        (Sieve, "abcacdef", "bda"),
    ],
)
def test_small_cases(policy: Callable[[int], PrefixPolicy[str]], letters: str, gone: str):
    """Three blocks of room, worked by hand."""
    assert victims(policy(3), letters, 3) == gone


@pytest.mark.parametrize(
    ("policy", "capacity", "letters", "gone"),
    [
        # b was used once as c was; then b's ghost says: more room for those, so a goes of the two
        # used twice; a's ghost says the opposite, so c goes
        (Arc, 2, "abacba", "bac"),
        # a, used twice in the small queue, moves on; b goes; its ghost lets it into the main queue
        (S3Fifo, 4, "aaabcdebf", "bcd"),
        # c and d lose to b by age; b passes a, which defends itself against e and loses to f
        (WTinyLfu, 3, "abcadebbffffg", "cdea"),
        # a is a level up for as long as it lives; b comes back with its count
        (lambda capacity: Mq(capacity, 100), 4, "aabcdefgh", "bcde"),
        (lambda capacity: Mq(capacity, 2), 4, "aabcdefgh", "bcda"),
        (lambda capacity: Mq(capacity, 100), 2, "abcade", "abcd"),
    ],
)
def test_small_cases_with_memory(
    policy: Callable[[int], PrefixPolicy[str]], capacity: int, letters: str, gone: str
):
    """Used first, then one goes where it is too many: worked by hand after the papers."""
    one, held, victims = policy(capacity), set(), ""
    for at, letter in enumerate(letters):
        one.touch([letter], float(at))
        held.add(letter)
        if len(held) > capacity:
            victim = one.victim(lambda _: False)
            assert victim is not None
            one.forget(victim)
            held.remove(victim)
            victims += victim
    assert victims == gone


def test_gittins_index_of_a_sure_return():
    """Who surely comes in bin k is worth one use over the time until then, later ones nothing."""
    due = 10
    hazards = [float(at == due) for at in range(curves.BINS)]
    ranks = curves.gittins(hazards)
    widths = [b - a for a, b in zip((0.0, *curves.EDGES_S), curves.EDGES_S, strict=False)]
    for at in range(due + 1):
        assert ranks[at] == pytest.approx(1 / (sum(widths[at:due]) + widths[due] / 2))
    assert not any(ranks[due + 1 :])
    assert ranks[: due + 1] == sorted(ranks[: due + 1])


def test_gittins_index_stops_where_it_pays():
    """An early chance counts by itself: waiting for a late one would only dilute it."""
    hazards = [0.0] * curves.BINS
    hazards[0], hazards[20] = 0.5, 0.5
    early = 0.5 / (curves.EDGES_S[0] * 0.75)
    assert curves.gittins(hazards)[0] == pytest.approx(early)
    assert curves.density(hazards, 4096.0)[0] < early / 100


def test_beliefs_are_chances():
    """Each class begins with hazards between 0 and 1 that add up to its share of returns."""
    rows = curves.beliefs()
    assert len(rows) == curves.BELIEF_CLASSES
    for row, returns in zip(rows, (0.25, 0.45), strict=False):
        left = 1.0
        for hazard in row:
            assert 0 <= hazard < 1
            left *= 1 - hazard
        assert left == pytest.approx(1 - returns)


def test_ours_keeps_what_will_come_back():
    """Chats that all come back after a minute, with room for half of one: LRU finds nothing."""
    trace: Trace = []
    for second in range(1500):
        trace.append((float(second), [2 * second, 2 * second + 1]))
        if second >= 60:
            back = second - 60
            trace.append((second + 0.5, [2 * back, 2 * back + 1, -back - 1]))
    lru, _, _ = run(Lru(60), trace, 60)
    ours, _, _ = run(Starloom(60), trace, 60)
    bound, _, _ = run(make("belady", 60, trace), trace, 60)
    assert lru == 0
    assert ours > bound / 2


def test_ours_forgets_in_bounds():
    """Ghosts, counts and groups stay bounded however many blocks pass."""
    policy: Starloom[int] = Starloom(10)
    policy._ghost_room = 50
    for number in range(2000):
        policy.touch([number], number * 10.0)
        if number >= 10:
            victim = policy.victim(lambda _: False)
            assert victim is not None
            policy.forget(victim)
    assert len(policy._ghosts) == 50
    assert len(policy._uses) == 60
    assert len(policy._log) <= 4096 / 10 * 2 + 2
    assert sum(map(len, policy._queues.values())) <= 10


def test_a_site_may_choose_any_policy():
    """The names that a site file takes are those of the policies."""
    names = KvPool.model_fields["policy"].annotation
    assert set(get_args(names)) == set(POLICIES)


@pytest.mark.parametrize("name", NAMES)
def test_a_pool_works_with_any_policy(name: str):
    """Puts and gets over a full pool: whatever is found is right, and is a prefix."""
    rng = random.Random(7)
    with contextlib.closing(LocalPool([SlotClass(64, 12)], POLICIES[name])) as pool:
        for _ in range(300):
            chain = rng.randrange(6)
            keys = [bytes([chain, at]) * 16 for at in range(rng.randint(1, 5))]
            with pool.get(keys) as lease:
                assert [bytes(view) for view in lease.views] == keys[: len(lease.views)]
            pool.put([(key, key) for key in keys])
        assert pool.stat().blocks == 12
        assert pool.stat().evicted_blocks > 0
