from collections import OrderedDict, deque
from collections.abc import Iterator
from math import log2
from typing import Generic

from starloom.kv.policies.base import K, PrefixPolicy
from starloom.kv.policies.curves import (
    BELIEF_CLASSES,
    EDGES_S,
    Counts,
    age_bin,
    beliefs,
    density,
    gittins,
)

GHOSTS, LEAST_GHOSTS = 8, 60_000
"""Blocks that went and are remembered, in capacities and at least. One takes about 200 bytes."""
LOG = 1 << 16
"""Groups whose further ages are still counted."""
PRIOR_BLOCKS = 2000.0
"""What the belief, or the wider class, weighs against what was counted."""
FADE, FADE_EVERY = 0.998, 200
REFRESH_EVERY = 50
"""Requests after which ranks are computed anew."""
_HORIZON_S = 64.0
_SHORTEST_PAUSE_S, _PAUSES = 30.0, 3
_TURNS = 4

Class = tuple[int, ...]


class _Group(Generic[K]):
    """Blocks of one class that were used last by one request, the last block first."""

    __slots__ = ("at_s", "held", "keys", "kind", "serial", "waiting")

    def __init__(self, kind: Class, at_s: float, serial: int) -> None:
        self.kind = kind
        self.at_s = at_s
        self.serial = serial
        self.keys: deque[K] = deque()
        self.held = 0
        self.waiting = 0
        """Blocks not used again, whether held or not."""


class Hazard(PrefixPolicy[K]):
    """Gives up the block with the least uses to be expected in the next minute, by uses and age.

    Blocks are told apart by how often they were used (half octaves), ghosts included; for each
    class the chance of a use at each age is learned on line. Of each class the oldest block is a
    candidate. O(classes) for each request, O(1) for each block. Source: J. Wang et al., "KVCache
    cache in the wild", ATC 2025, whose reuse probability by category we learn from counts.
    """

    newest_too = False
    """Whether the newest block of a class is a candidate beside the oldest."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._requests = self._serial = 0
        self._pause, self._turn = -1, 1
        """Of the request that is being told: classes of what it says about its conversation."""
        self._group: dict[K, _Group[K]] = {}
        self._uses: dict[K, int] = {}
        """Of held blocks and ghosts."""
        self._ghosts: OrderedDict[K, _Group[K]] = OrderedDict()
        self._ghost_room = max(GHOSTS * capacity, LEAST_GHOSTS)
        self._queues: dict[Class, OrderedDict[int, _Group[K]]] = {}
        self._fresh: dict[Class, _Group[K]] = {}
        """The groups of the request that is being told."""
        self._counts: dict[Class, Counts] = {}
        self._wide: dict[Class, tuple[Counts, ...]] = {}
        self._beliefs = beliefs()
        self._log: deque[_Group[K]] = deque()
        self._log_start = 0
        self._reached = [0] * (len(EDGES_S) + 1)
        """By bin: the number of the next group of the log that comes to that age."""
        self._choice: _Group[K] | None = None

    def _class(self, uses: int) -> Class:
        return (min(int(2 * log2(uses)), BELIEF_CLASSES - 1),)

    def _converse(self) -> None:
        """Read off the request what it says about its conversation."""

    def _ranks(self, hazards: list[float]) -> list[float]:
        return density(hazards, _HORIZON_S)

    def _begin(self) -> None:
        self._requests += 1
        self._choice = None
        self._fresh = {}
        self._grow_older()
        if self._requests % FADE_EVERY == 0:
            for counts in self._counts.values():
                counts.fade(FADE)
        self._converse()

    def _hit(self, key: K) -> None:
        group = self._group[key]
        self._leave(group)
        self._again(key, group)

    def _admit(self, key: K) -> None:
        group = self._ghosts.pop(key, None)
        if group is None:
            self._uses[key] = 1
            self._join(key, 1)
        else:
            self._again(key, group)

    def _drop(self, key: K) -> None:
        group = self._group.pop(key)
        self._leave(group)
        self._ghosts[key] = group
        if len(self._ghosts) > self._ghost_room:
            forgotten, _ = self._ghosts.popitem(last=False)
            del self._uses[forgotten]

    def _order(self) -> Iterator[K]:
        if self._choice is None or not self._choice.held:
            self._choice = self._lowest()
        if self._choice is None:
            return
        yield from self._held(self._choice)
        for queue in self._queues.values():  # the first choice is pinned
            for group in queue.values():
                yield from self._held(group)

    def _again(self, key: K, group: _Group[K]) -> None:
        """A block that was seen before is used: count it for the class that it was in."""
        group.waiting -= 1
        at = age_bin(self._now_s - group.at_s)
        for counts in self._wider(group.kind):
            counts.used[at] += 1
        uses = self._uses[key] = self._uses[key] + 1
        self._join(key, uses)

    def _join(self, key: K, uses: int) -> None:
        kind = self._class(uses)
        group = self._fresh.get(kind)
        if group is None:
            self._serial += 1
            group = self._fresh[kind] = _Group(kind, self._now_s, self._serial)
            self._log.append(group)
            if len(self._log) > LOG:
                self._log.popleft()
                self._log_start += 1
        if not group.held:
            self._queues.setdefault(kind, OrderedDict())[group.serial] = group
        group.keys.append(key)
        group.held += 1
        group.waiting += 1
        self._group[key] = group

    def _leave(self, group: _Group[K]) -> None:
        group.held -= 1
        if not group.held:
            del self._queues[group.kind][group.serial]

    def _held(self, group: _Group[K]) -> Iterator[K]:
        while group.keys and self._group.get(group.keys[0]) is not group:
            group.keys.popleft()
        for key in group.keys:
            if self._group.get(key) is group:
                yield key

    def _lowest(self) -> _Group[K] | None:
        """The group of the least rank; of equals the one used longest ago."""
        best: tuple[float, int] | None = None
        lowest = None
        for kind, queue in self._queues.items():
            if not queue:
                continue
            ranks = self._rank_table(kind)
            ends = [next(iter(queue.values()))]
            if self.newest_too:
                ends.append(next(reversed(queue.values())))
            for group in ends:
                rank = ranks[age_bin(self._now_s - group.at_s)], group.serial
                if best is None or rank < best:
                    best, lowest = rank, group
        return lowest

    def _rank_table(self, kind: Class) -> list[float]:
        stamp = self._requests // REFRESH_EVERY
        wider = self._wider(kind)
        narrow = wider[-1]
        if narrow.stamp != stamp:
            hazards = self._beliefs[kind[0]]
            for counts in wider:
                hazards = counts.hazards(hazards, PRIOR_BLOCKS)
            narrow.ranks, narrow.stamp = self._ranks(hazards), stamp
        return narrow.ranks

    def _wider(self, kind: Class) -> tuple[Counts, ...]:
        """Counts of the class and those that it is a part of, the widest first."""
        found = self._wide.get(kind)
        if found is None:
            wider = [kind[:length] for length in range(1, len(kind) + 1)]
            found = tuple(self._counts.setdefault(each, Counts()) for each in wider)
            self._wide[kind] = found
        return found

    def _grow_older(self) -> None:
        """Count who came to a further age unused. A group is looked at once for each bin."""
        end = self._log_start + len(self._log)
        for at, number in enumerate(self._reached):
            age_s = EDGES_S[at - 1] if at else 0.0
            now = max(number, self._log_start)
            while now < end:
                group = self._log[now - self._log_start]
                if self._now_s - group.at_s < age_s:
                    break
                if group.waiting:
                    for counts in self._wider(group.kind):
                        counts.reached[at] += group.waiting
                now += 1
            self._reached[at] = now
        while self._log and self._log_start < self._reached[-1]:
            self._log.popleft()
            self._log_start += 1


class Starloom(Hazard[K]):
    """Ours: gives up the block whose place would bring the least, by uses, conversation and age.

    As `Hazard`, with three differences. A class is also what the request that used the block last
    said about its conversation: its turn, and the pause before it. Both are read off the keys: a
    prompt goes on where the last of its blocks that was seen before left off. The rank is
    Gittins' index, so that patience is not a constant but what pays best at that age. And the
    newest block of a class is a candidate too: chats come back after a minute, so where there is
    no room for a minute of traffic the youngest goes, and those that have waited are kept.
    """

    newest_too = True

    def _class(self, uses: int) -> Class:
        return (*super()._class(uses), self._pause, self._turn)

    def _ranks(self, hazards: list[float]) -> list[float]:
        return gittins(hazards)

    def _converse(self) -> None:
        self._pause, self._turn = -1, 1
        for key in reversed(self._request):
            group = self._group.get(key) or self._ghosts.get(key)
            if group is not None:
                pause_s = self._now_s - group.at_s
                self._pause = min(int(pause_s / _SHORTEST_PAUSE_S).bit_length(), _PAUSES)
                self._turn = min(group.kind[2] + 1, _TURNS)
                return
