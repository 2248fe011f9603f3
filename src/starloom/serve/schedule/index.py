"""Which workers hold which leading blocks of a prompt: one index for all workers of a model.

Keys are chained (`starloom.kv.keys`): a key covers its whole prefix, so that prompts form a tree.
The index keeps the tree in *segments*, runs of keys that were first seen together, and for each
segment how many of its leading keys each worker holds. That makes a look-up independent of a
prompt's length but for a binary search, and a worker that holds a long prefix costs one number.

A key is known by its first 8 bytes. Pure: no clock; "recent" means the order of calls.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

KEY_BYTES = 8
STRIDE = 16
"""Of keys that need not be found one by one, every so many-th of a chain stands in the table."""


class _Segment:
    """Consecutive keys of one chain; `start` keys of the chain come before, ending in `parent`."""

    __slots__ = ("beyond", "children", "depth", "keys", "parent", "start")

    def __init__(self, start: int, parent: _Segment | None) -> None:
        self.start = start
        self.parent = parent
        self.keys = array("Q")
        self.depth: dict[int, int] = {}
        """Worker -> how many leading keys of the segment it holds; no entry is 0."""
        self.beyond: dict[int, set[int]] = {}
        """Worker -> offsets that it holds behind a gap. Rare: engines drop tails first."""
        self.children: dict[_Segment, None] = {}


class PrefixIndex:
    """Segments, and what each worker holds of them. Workers are small numbers from `join`.

    `exact` is for workers that tell what they store and remove: every key stands in the table then,
    at about 100 bytes each. Else every `STRIDE`-th and each segment's first do.
    """

    def __init__(self, *, exact: bool = False) -> None:
        self.exact = exact
        self._stride = 1 if exact else STRIDE
        self._at: dict[int, _Segment] = {}
        self._lru: list[OrderedDict[_Segment, None]] = []
        self._blocks: list[int] = []
        self._capacity: list[int] = []
        self._free: list[int] = []

    def join(self, capacity: int) -> int:
        """A new worker that holds at most `capacity` blocks, and nothing yet; its number."""
        if self._free:
            number = self._free.pop()
            self._capacity[number] = capacity
            return number
        self._lru.append(OrderedDict())
        self._blocks.append(0)
        self._capacity.append(capacity)
        return len(self._lru) - 1

    def has(self, worker: int) -> bool:
        """Whether a worker of this number joined."""
        return worker < len(self._lru)

    def blocks(self, worker: int) -> int:
        """How many blocks the worker is believed to hold."""
        return self._blocks[worker]

    def overlaps(self, keys: Sequence[bytes]) -> list[int]:
        """How many leading `keys` each worker holds. Reads only."""
        got = [0] * len(self._lru)
        for segment, limit in reversed(_path(*self._find(keys))):
            start = segment.start
            for worker, depth in segment.depth.items():
                if got[worker] == start:  # else a gap in front of this segment
                    got[worker] = start + (min(limit, depth))
        return got

    def add(self, worker: int, keys: Sequence[bytes]) -> None:
        """The worker will hold all of `keys`, a chain from its beginning.

        What it touched least recently goes where it is over its capacity, tails first.
        """
        segment, known = self._find(keys)
        if known < len(keys):
            segment = self._grow(segment, known, _shorts(keys[known:]))
        for part, limit in _path(segment, len(keys)):
            self._hold(worker, part, 0, limit)
            self._lru[worker].move_to_end(part)
        self._evict(worker)

    def stored(self, worker: int, parent: bytes | None, keys: Sequence[bytes]) -> None:
        """The worker says that it holds `keys`, which follow `parent` (None: the beginning).

        Ignored where `parent` is not known: such blocks lead no prefix that could be matched.
        Like `removed` for an exact index.
        """
        at, segment = 0, None
        if parent is not None:
            segment = self._at.get(_short(parent))
            if segment is None:
                return
            at = segment.start + _offset(segment, _short(parent), worker) + 1
        shorts = _shorts(keys)
        done = 0
        while done < len(shorts):
            found = self._at.get(int(shorts[done]))
            if found is None:
                segment = self._grow(segment, at, shorts[done:])
                run = len(shorts) - done
            else:
                segment = found
                run = _run(segment.keys, at - segment.start, shorts, done)
            self._hold(worker, segment, at - segment.start, at - segment.start + run)
            at += run
            done += run
        while segment is not None:
            if segment in self._lru[worker]:
                self._lru[worker].move_to_end(segment)
            segment = segment.parent
        self._evict(worker)

    def removed(self, worker: int, keys: Sequence[bytes]) -> None:
        """The worker says that it holds `keys` no longer. Unknown ones are passed over."""
        shorts = [_short(key) for key in keys]
        at = 0
        while at < len(shorts):
            segment = self._at.get(shorts[at])
            if segment is None or segment not in self._lru[worker]:
                at += 1
                continue
            before = depth = segment.depth.get(worker, 0)
            while depth and at < len(shorts) and segment.keys[depth - 1] == shorts[at]:
                depth -= 1  # tails first, as engines drop them
                at += 1
            if depth < before:
                self._set_depth(worker, segment, depth)
                self._blocks[worker] -= before - depth
            else:
                self._remove_one(worker, segment, shorts[at])
                at += 1
            self._tidy(worker, segment)

    def clear(self, worker: int) -> None:
        """The worker holds nothing any more."""
        while self._lru[worker]:
            self._drop(worker, next(reversed(self._lru[worker])))

    def leave(self, worker: int) -> None:
        """The worker is gone, and its number is free for another."""
        self.clear(worker)
        self._free.append(worker)

    def check_integrity(self) -> None:
        """Raise AssertionError where the books contradict themselves. For tests."""
        segments = set(self._at.values())
        for worker, lru in enumerate(self._lru):
            count = sum(s.depth.get(worker, 0) + len(s.beyond.get(worker, ())) for s in lru)
            _expect(count == self._blocks[worker], "a worker's count is wrong")
            _expect(count <= self._capacity[worker], "a worker is over its capacity")
            _expect(set(lru) <= segments, "a worker holds a lost segment")
        listed = 0
        for segment in segments:
            holders = segment.depth.keys() | segment.beyond.keys()
            _expect(bool(holders) or bool(segment.children), "a segment is of no use")
            _expect(all(segment in self._lru[w] for w in holders), "a holder is not told")
            keys = self._listed(segment, 0)
            listed += len(keys)
            _expect(all(self._at[key] is segment for key in keys), "a key is elsewhere")
        _expect(listed == len(self._at), "a key is lost")

    def _find(self, keys: Sequence[bytes]) -> tuple[_Segment | None, int]:
        """How many leading keys stand in the tree, and the segment of the last of them.

        A key's parent stands in the tree as long as the key does, so halving finds the last listed
        one; from there the segment itself, and those that begin in the next stride, tell the rest.
        """
        at, stride = self._at, self._stride
        low, high = 0, len(keys) // stride
        while low < high:
            middle = (low + high) // 2
            if _short(keys[middle * stride + stride - 1]) in at:
                low = middle + 1
            else:
                high = middle
        known = low * stride
        segment = at[_short(keys[known - 1])] if known else None
        while known < len(keys):
            key = _short(keys[known])
            offset = known - segment.start if segment is not None else 0
            if segment is not None and segment.keys[offset : offset + 1] == array("Q", [key]):
                known += 1
                continue
            child = at.get(key)
            if child is None or child.start != known:
                break
            segment = child
            known += 1
        return segment, known

    def _listed(self, segment: _Segment, offset: int) -> list[int]:
        """The keys from `offset` of the segment that stand in the table."""
        stride = self._stride
        first = offset + (-1 - segment.start - offset) % stride
        keys = segment.keys[first::stride].tolist()
        if offset == 0 and first and segment.keys:
            keys.append(segment.keys[0])
        return keys

    def _grow(self, parent: _Segment | None, start: int, keys: NDArray[np.uint64]) -> _Segment:
        """Put new keys behind `start` keys of the chain, the last of them in `parent`.

        They go on with `parent` where nothing else does; else it is cut there, and they branch off.
        """
        if parent is not None and parent.start + len(parent.keys) > start:
            self._cut(parent, start - parent.start)
        if parent is not None and not parent.children:
            segment = parent
        else:
            segment = _Segment(start, parent)
            if parent is not None:
                parent.children[segment] = None
        before = len(segment.keys)
        segment.keys.frombytes(keys.tobytes())
        self._at.update(dict.fromkeys(self._listed(segment, before), segment))
        return segment

    def _cut(self, segment: _Segment, offset: int) -> None:
        """Keys from `offset` on become a segment of their own, with all who hold them."""
        tail = _Segment(segment.start + offset, segment)
        tail.keys = segment.keys[offset:]
        del segment.keys[offset:]
        tail.children, segment.children = segment.children, {tail: None}
        for child in tail.children:
            child.parent = tail
        for worker in list(segment.depth.keys() | segment.beyond.keys()):
            depth = segment.depth.get(worker, 0)
            beyond = segment.beyond.pop(worker, set())
            here = {at for at in beyond if at < offset}
            there = {at - offset for at in beyond if at >= offset}
            lead = max(depth - offset, 0)
            while lead in there:
                there.remove(lead)
                lead += 1
            for part, held, gaps in (
                (segment, min(depth, offset), here),
                (tail, lead, there),
            ):
                part.depth.pop(worker, None)
                if held:
                    part.depth[worker] = held
                if gaps:
                    part.beyond[worker] = gaps
                if held or gaps:
                    self._lru[worker].setdefault(part)
                else:
                    self._lru[worker].pop(part, None)
        self._at.update(dict.fromkeys(self._listed(tail, 0), tail))

    def _hold(self, worker: int, segment: _Segment, low: int, high: int) -> None:
        """The worker holds offsets `low` to `high` of the segment."""
        depth = segment.depth.get(worker, 0)
        beyond = segment.beyond.pop(worker, None)
        before = depth + (len(beyond) if beyond else 0)
        if low <= depth:
            depth = max(depth, high)
        else:
            beyond = (beyond or set()) | set(range(low, high))
        if beyond:
            while depth in beyond:
                depth += 1
            beyond = {offset for offset in beyond if offset > depth}
        if depth:
            segment.depth[worker] = depth
        if beyond:
            segment.beyond[worker] = beyond
        self._blocks[worker] += depth + (len(beyond) if beyond else 0) - before
        self._lru[worker].setdefault(segment)

    def _evict(self, worker: int) -> None:
        while (over := self._blocks[worker] - self._capacity[worker]) > 0:
            segment = next(iter(self._lru[worker]))
            beyond = segment.beyond.pop(worker, None)
            if beyond is not None:
                self._blocks[worker] -= len(beyond)
            else:
                depth = segment.depth.get(worker, 0)
                cut = min(depth, over)
                self._set_depth(worker, segment, depth - cut)
                self._blocks[worker] -= cut
            self._tidy(worker, segment)

    def _remove_one(self, worker: int, segment: _Segment, key: int) -> None:
        """Any block: what the worker holds after it in the segment stands behind a gap then."""
        offset = segment.keys.index(key)
        depth = segment.depth.get(worker, 0)
        beyond = segment.beyond.get(worker)
        if offset < depth:
            segment.beyond.setdefault(worker, set()).update(range(offset + 1, depth))
            self._set_depth(worker, segment, offset)
            self._blocks[worker] -= 1
        elif beyond is not None and offset in beyond:
            beyond.remove(offset)
            self._blocks[worker] -= 1

    def _drop(self, worker: int, segment: _Segment) -> None:
        self._blocks[worker] -= segment.depth.pop(worker, 0)
        self._blocks[worker] -= len(segment.beyond.pop(worker, ()))
        self._tidy(worker, segment)

    def _set_depth(self, worker: int, segment: _Segment, depth: int) -> None:
        if depth:
            segment.depth[worker] = depth
        else:
            segment.depth.pop(worker, None)

    def _tidy(self, worker: int, segment: _Segment) -> None:
        """Forget what nobody holds any more."""
        if not segment.beyond.get(worker, True):
            del segment.beyond[worker]
        if worker not in segment.depth and worker not in segment.beyond:
            self._lru[worker].pop(segment, None)
        if segment.children or segment.beyond:
            return
        top = max(segment.depth.values(), default=0)
        for key in self._listed(segment, top):
            del self._at[key]
        del segment.keys[top:]
        if not top and segment.parent is not None:
            parent, segment.parent = segment.parent, None
            del parent.children[segment]
            self._tidy(worker, parent)


def _path(segment: _Segment | None, end: int) -> list[tuple[_Segment, int]]:
    """Segments from `segment` to the root, and how many keys of each lie on the way to `end`."""
    path: list[tuple[_Segment, int]] = []
    while segment is not None:
        path.append((segment, end - segment.start))
        end = segment.start
        segment = segment.parent
    return path


def _short(key: bytes) -> int:
    return int.from_bytes(key[:KEY_BYTES])


def _shorts(keys: Sequence[bytes]) -> NDArray[np.uint64]:
    """Keys as numbers. All keys of a call are of one length."""
    width, odd = divmod(len(keys[0]), KEY_BYTES) if keys else (0, 1)
    if odd:
        return np.array([_short(key) for key in keys], dtype=np.uint64)
    return np.frombuffer(b"".join(keys), dtype=">u8")[::width].astype(np.uint64)


def _offset(segment: _Segment, key: int, worker: int) -> int:
    """Where in the segment `key` stands: mostly where the worker's part of it ends."""
    depth = segment.depth.get(worker, 0)
    if depth and segment.keys[depth - 1] == key:
        return depth - 1
    return segment.keys.index(key)


def _run(mine: array[int], offset: int, theirs: NDArray[np.uint64], done: int) -> int:
    """How many keys from `offset` of `mine` and from `done` of `theirs` agree; at least one."""
    most = min(len(mine) - offset, len(theirs) - done)
    low = 1
    while low < most:  # chained: where one agrees, all before it do
        middle = (low + most + 1) // 2
        if mine[offset + middle - 1] == theirs[done + middle - 1]:
            low = middle
        else:
            most = middle - 1
    return low


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise AssertionError(what)
