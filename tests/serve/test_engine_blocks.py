"""The block manager: what is conserved, and in which order blocks are taken."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from starloom.serve.engines.blocks import BlockManager


def test_blocks_without_contents_are_taken_first_and_in_order():
    """Neighbours where possible; a cached block only when no empty one is left."""
    blocks = BlockManager(4, 16)
    first = blocks.take(2)
    assert first == [0, 1]
    assert blocks.name(0, b"a")
    blocks.release(first)
    assert blocks.take(3) == [1, 2, 3]
    assert blocks.find(b"a") == 0
    assert blocks.take(1) == [0]
    assert blocks.find(b"a") is None


def test_a_prefix_loses_its_tail_before_its_head():
    """Without its head a tail is of no use, so the tail goes first."""
    blocks = BlockManager(3, 16)
    held = blocks.take(3)
    for block, key in zip(held, (b"a", b"ab", b"abc"), strict=True):
        blocks.name(block, key)
    blocks.release(held)
    blocks.take(1)
    assert blocks.known_prefix([b"a", b"ab", b"abc"]) == held[:2]
    blocks.take(1)
    assert blocks.known_prefix([b"a", b"ab", b"abc"]) == held[:1]


def test_a_shared_block_is_free_after_its_last_holder():
    blocks = BlockManager(2, 16)
    [block] = blocks.take(1)
    blocks.name(block, b"a")
    blocks.hold([block])
    blocks.release([block])
    assert blocks.used == 1
    blocks.release([block])
    assert blocks.used == 0


def test_the_first_block_with_a_key_keeps_it():
    blocks = BlockManager(2, 16)
    first, second = blocks.take(2)
    assert blocks.name(first, b"a")
    assert not blocks.name(second, b"a")
    assert blocks.find(b"a") == first


def test_holding_cached_blocks_counts_against_what_can_be_taken():
    """Two free blocks, one of them wanted for its contents: only one fresh one is left."""
    blocks = BlockManager(2, 16)
    [block] = blocks.take(1)
    blocks.name(block, b"a")
    blocks.release([block])
    assert blocks.can_take(1, [block])
    assert not blocks.can_take(2, [block])


def test_misuse_is_refused():
    """A double free would hand one block to two sequences."""
    blocks = BlockManager(2, 16)
    held = blocks.take(1)
    blocks.release(held)
    with pytest.raises(ValueError, match="more often"):
        blocks.release(held)
    with pytest.raises(ValueError, match="asked for"):
        blocks.take(3)
    with pytest.raises(ValueError, match="not held"):
        blocks.name(0, b"a")
    with pytest.raises(ValueError, match="holds none"):
        BlockManager(0, 16)


class Blocks(RuleBasedStateMachine):
    """Random holders: blocks are conserved, and a key always finds its own block."""

    @initialize(count=st.integers(1, 8))
    def start(self, count):
        self.blocks = BlockManager(count, 4)
        self.holders: list[list[int]] = []
        self.named: dict[bytes, int] = {}

    @rule(count=st.integers(1, 4))
    def take(self, count):
        if self.blocks.can_take(count):
            taken = self.blocks.take(count)
            self.named = {key: at for key, at in self.named.items() if at not in taken}
            self.holders.append(taken)
        else:
            with pytest.raises(ValueError, match="free"):
                self.blocks.take(count)

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), key=st.binary(min_size=1, max_size=1))
    def name(self, data, key):
        block = data.draw(st.sampled_from(data.draw(st.sampled_from(self.holders))))
        if self.blocks.name(block, key):
            self.named[key] = block

    @precondition(lambda self: self.named)
    @rule(data=st.data())
    def hold_known(self, data):
        block = data.draw(st.sampled_from(sorted(self.named.values())))
        self.blocks.hold([block])
        self.holders.append([block])

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def release(self, data):
        at = data.draw(st.integers(0, len(self.holders) - 1))
        self.blocks.release(self.holders.pop(at))

    @invariant()
    def conserved(self):
        if hasattr(self, "blocks"):
            self.blocks.check_integrity()
            assert self.blocks.used == len({b for held in self.holders for b in held})
            assert all(self.blocks.find(key) == at for key, at in self.named.items())

    def teardown(self):
        for held in getattr(self, "holders", []):
            self.blocks.release(held)
        if hasattr(self, "blocks"):
            assert self.blocks.free == self.blocks.num_blocks


TestBlocks = Blocks.TestCase
TestBlocks.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
