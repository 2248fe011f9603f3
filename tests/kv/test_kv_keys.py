"""Block keys: equal prefixes, and only those, have equal keys, in every process."""

import os
import subprocess
import sys

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
