"""What a policy is, and the tree of prefixes that all of them stand on.

A block is of no use without all blocks before it. So only a block that nothing held hangs on is
given up (*leaf-only*), and a request's blocks are counted as used from the last to the first
(*tail-first*): of one request, the end is always older than the beginning.

`n` below is the number of blocks held, `c` the capacity. Costs are per block used or given up. A
policy that names a block with others behind it pays a walk down that chain, and one that names a
pinned block looks further; neither grows with `c`.
"""

from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Protocol, TypeVar

K = TypeVar("K", bound=Hashable)
Pinned = Callable[[K], bool]


class PolicyOf(Protocol[K]):
    """The order in which blocks are given up. Knows no clock and draws no lots.

    It holds what was handed to it by `touch` and not taken back by `forget`.
    """

    def touch(self, keys: Sequence[K], at_s: float = 0.0) -> None:
        """A request used these blocks, in prefix order, at a time that never runs backwards.

        Those that are not held are taken up, each behind the one before it in `keys`.
        """

    def forget(self, key: K) -> None:
        """The block is gone. Does nothing for one that is not held."""

    def victim(self, pinned: Pinned[K]) -> K | None:
        """The block to give up next: one that nothing held hangs on, or None when all are pinned.

        A block whose descendant is pinned counts as pinned. Asked twice, it answers the same.
        """


Policy = PolicyOf[bytes]
"""One for blocks of a pool."""
NewPolicy = Callable[[int], Policy]
"""Makes a policy for a capacity in blocks."""


class PrefixPolicy(PolicyOf[K]):
    """Keeps the tree of held blocks; an implementation orders blocks, this never breaks a chain."""

    def __init__(self, capacity: int) -> None:
        """`capacity`: the blocks that there is room for, from which policies size their parts."""
        if capacity < 1:
            raise ValueError(f"a policy over {capacity} blocks: give it at least one")
        self.capacity = capacity
        self._request: Sequence[K] = ()
        self._now_s = 0.0
        self._parents: dict[K, K | None] = {}
        self._children: dict[K, dict[K, None]] = {}

    def touch(self, keys: Sequence[K], at_s: float = 0.0) -> None:
        if len(set(keys)) < len(keys):
            keys = list(dict.fromkeys(keys))
        self._request, self._now_s = keys, max(at_s, self._now_s)
        self._begin()
        parents, children = self._parents, self._children
        for at in range(len(keys) - 1, -1, -1):
            key = keys[at]
            if key in parents:
                parent = parents[key]
                if parent is not None:
                    siblings = children[parent]
                    del siblings[key]
                    siblings[key] = None  # the first one is the one used longest ago
                self._hit(key)
            else:
                parents[key] = parent = keys[at - 1] if at else None
                if parent is not None:
                    children.setdefault(parent, {})[key] = None
                self._admit(key)

    def forget(self, key: K) -> None:
        if key not in self._parents:
            return
        self._drop(key)
        for child in self._children.pop(key, ()):
            self._parents[child] = None
        parent = self._parents.pop(key)
        if parent is not None:
            siblings = self._children[parent]
            del siblings[key]
            if not siblings:
                del self._children[parent]

    def victim(self, pinned: Pinned[K]) -> K | None:
        children = self._children
        for candidate in self._order():
            if pinned(candidate):
                continue
            key = candidate
            while key in children:
                key = next(iter(children[key]))
            if not pinned(key):
                return key
        return None

    def __len__(self) -> int:
        return len(self._parents)

    def _begin(self) -> None:
        """`_request` comes at `_now_s`; its blocks follow, the last one first."""

    @abstractmethod
    def _hit(self, key: K) -> None:
        """A held block is used."""

    @abstractmethod
    def _admit(self, key: K) -> None:
        """A block is taken up."""

    @abstractmethod
    def _drop(self, key: K) -> None:
        """A held block goes."""

    @abstractmethod
    def _order(self) -> Iterator[K]:
        """Held blocks, the one to give up first in front."""
