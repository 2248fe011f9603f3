"""The blocks of a paged KV cache: who holds them, what is in them, which is taken next.

A block is *held* while its reference count is above zero. A block that nobody holds is free; if it
has a key its contents stay of use, and it waits in a queue of cached blocks until it is taken.
Pure bookkeeping: the numbers in the blocks live in an executor.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush


class BlockManager:
    """Reference counts, the key of each full block, and the order in which free blocks are taken.

    Blocks without a key are taken first, lowest index first, so that a sequence gets neighbours
    where it can; then cached blocks, least recently released first.
    """

    def __init__(self, num_blocks: int, block_tokens: int) -> None:
        if num_blocks < 1 or block_tokens < 1:
            raise ValueError(f"a cache of {num_blocks} blocks of {block_tokens} tokens holds none")
        self.num_blocks = num_blocks
        self.block_tokens = block_tokens
        self._references = [0] * num_blocks
        self._key_of: list[bytes | None] = [None] * num_blocks
        self._block_of: dict[bytes, int] = {}
        self._empty = list(range(num_blocks))
        self._cached: OrderedDict[int, None] = OrderedDict()

    @property
    def free(self) -> int:
        """Blocks that can be taken now, cached ones included."""
        return len(self._empty) + len(self._cached)

    @property
    def used(self) -> int:
        """Blocks that somebody holds."""
        return self.num_blocks - self.free

    def blocks_for(self, tokens: int) -> int:
        """Blocks that `tokens` tokens fill or begin."""
        return -(-tokens // self.block_tokens)

    def find(self, key: bytes) -> int | None:
        """The block that holds `key`'s contents, held or cached."""
        return self._block_of.get(key)

    def known_prefix(self, keys: Iterable[bytes]) -> list[int]:
        """Blocks of the longest leading run of `keys` whose contents are here."""
        found: list[int] = []
        for key in keys:
            block = self._block_of.get(key)
            if block is None:
                break
            found.append(block)
        return found

    def can_take(self, fresh: int, known: Iterable[int] = ()) -> bool:
        """Whether `fresh` blocks could be taken besides holding the `known` ones."""
        return fresh + sum(1 for block in known if not self._references[block]) <= self.free

    def hold(self, blocks: Iterable[int]) -> None:
        """One more reference to each block; cached ones are free no longer."""
        for block in blocks:
            if not self._references[block]:
                del self._cached[block]
            self._references[block] += 1

    def take(self, count: int) -> list[int]:
        """Hold `count` blocks whose contents are forgotten. ValueError when too few are free."""
        if count > self.free:
            raise ValueError(f"{count} blocks asked for, {self.free} free")
        return [self._take_one() for _ in range(count)]

    def _take_one(self) -> int:
        if self._empty:
            block = heappop(self._empty)
        else:
            block, _ = self._cached.popitem(last=False)
            key = self._key_of[block]
            if key is not None:
                del self._block_of[key]
            self._key_of[block] = None
        self._references[block] = 1
        return block

    def name(self, block: int, key: bytes) -> bool:
        """Say that a held block is full, with `key`'s contents.

        False when another block already answers to `key`: this one then stays without a key.
        """
        if not self._references[block]:
            raise ValueError(f"block {block} is not held")
        if key in self._block_of or self._key_of[block] is not None:
            return False
        self._block_of[key] = block
        self._key_of[block] = key
        return True

    def release(self, blocks: Sequence[int]) -> None:
        """One reference less to each block of a prefix, head first: its tail is taken first."""
        for block in reversed(blocks):
            if self._references[block] < 1:
                raise ValueError(f"block {block} is released more often than it was held")
            self._references[block] -= 1
            if self._references[block]:
                continue
            if self._key_of[block] is None:
                heappush(self._empty, block)
            else:
                self._cached[block] = None

    def check_integrity(self) -> None:
        """Raise AssertionError where the books contradict themselves. For tests and idle time."""
        empty, cached = set(self._empty), set(self._cached)
        held = {block for block, count in enumerate(self._references) if count}
        sizes = len(self._empty) + len(cached) + len(held)
        expect(min(self._references) >= 0, "a reference count is negative")
        expect(sizes == len(empty | cached | held), "a block is in two places")
        expect(sizes == self.num_blocks, "a block is lost")
        keyed = {block: key for block, key in enumerate(self._key_of) if key is not None}
        expect({at: key for key, at in self._block_of.items()} == keyed, "keys disagree")
        expect(not empty & keyed.keys(), "an empty block has a key")
        expect(cached <= keyed.keys(), "a cached block has no key")


def expect(holds: bool, what: str) -> None:
    """Raise AssertionError, also under `python -O`."""
    if not holds:
        raise AssertionError(what)
