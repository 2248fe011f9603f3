"""Block keys: equal prefixes, and only those, have equal keys, in every process."""

import os
import struct
import subprocess
import sys

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from starloom.kv import KEY_BYTES, block_keys, root_key

TOKENS = st.lists(st.integers(0, 2**31 - 1), max_size=40)


def root(fingerprint="w", block_tokens=4, salt="a"):
    return root_key(fingerprint=fingerprint, block_tokens=block_tokens, salt=salt)


def test_keys_do_not_depend_on_the_hash_seed():
    """Two processes with other hash seeds compute the same keys."""
    code = (
        "from starloom.kv import *; r = root_key(fingerprint='w', block_tokens=4, salt='a');"
        "print([k.hex() for k in block_keys(r, list(range(20)), 4)])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert len(eval(outputs.pop())) == 5


def test_roots_are_walls():
    """Another model, block size or tenant gives other keys for the same tokens."""
    roots = [root(), root(fingerprint="v"), root(block_tokens=8), root(salt="b")]
    first = {block_keys(each, [1, 2, 3, 4], 4)[0] for each in roots}
    assert len(first) == 4


def test_fields_of_a_root_do_not_run_into_each_other():
    """Moving a character from one field to the next gives another root."""
    assert root("ab", salt="c") != root("a", salt="bc")
    assert root("w1", 4) != root("w", 14)


@given(TOKENS, TOKENS, st.integers(1, 8))
def test_keys_are_equal_exactly_as_far_as_the_blocks_are(one, other, block_tokens):
    """Key i of two sequences is the same if and only if their first i+1 blocks are."""
    ours = block_keys(root(), one, block_tokens)
    theirs = block_keys(root(), other, block_tokens)
    assert len(ours) == len(one) // block_tokens
    for index, (a, b) in enumerate(zip(ours, theirs, strict=False), 1):
        assert len(a) == KEY_BYTES
        assert (a == b) == (one[: index * block_tokens] == other[: index * block_tokens])


def test_a_partial_block_has_no_key():
    """Fewer tokens than a block give no key at all."""
    assert block_keys(root(), [1, 2, 3], 4) == []


@given(TOKENS, st.integers(1, 8))
def test_arrays_give_the_keys_of_lists(tokens, block_tokens):
    """What holds the numbers makes no difference: list, tuple, numpy of any width."""
    expected = block_keys(root(), tokens, block_tokens)
    for kind in (np.uint32, np.int64, np.dtype(">u4")):
        assert block_keys(root(), np.array(tokens, dtype=kind), block_tokens) == expected
    assert block_keys(root(), tuple(tokens), block_tokens) == expected


def test_the_chain_is_blake3_of_the_previous_key_and_big_endian_tokens():
    """Other programs can compute our keys: key[i] = blake3(key[i-1] || tokens as >u4)."""
    first, second = block_keys(root(), [1, 2, 3, 4, 5, 6, 7, 8, 9], 4)
    assert first == blake3(root() + struct.pack(">4I", 1, 2, 3, 4)).digest()
    assert second == blake3(first + struct.pack(">4I", 5, 6, 7, 8)).digest()


@pytest.mark.parametrize("tokens", [[-1], [1 << 32], np.array([-1]), np.array([1 << 32])])
def test_a_number_that_is_no_token_is_refused(tokens):
    """Nothing is cut off in silence: two prompts would share keys."""
    with pytest.raises(OverflowError):
        block_keys(root(), tokens, 1)
