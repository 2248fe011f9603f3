"""Segments of a chain: what a key says about where its block lives."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from starloom.kv.remote import NodeAddress
from starloom.kv.remote.placement import home
from starloom.kv.segments import STARTS, following, root, tag

TRACE = Path(os.environ.get("STARLOOM_DATA", "../shared/data")) / "mooncake"


def chain(blocks, parent: bytes) -> list[bytes]:
    keys = []
    for block in blocks:
        keys.append(following(parent, blake3(parent + block.to_bytes(8, "big")).digest()))
        parent = keys[-1]
    return keys


ROOT = root(blake3(b"model, layout, tenant").digest())
BLOCKS = st.lists(st.integers(0, 3), max_size=300)


@given(BLOCKS, st.integers(0, 300))
def test_a_chain_goes_on_from_any_of_its_keys(blocks, at):
    """Nothing but the key before is needed, wherever one stops."""
    whole = chain(blocks, ROOT)
    head = chain(blocks[:at], ROOT)
    assert head + chain(blocks[at:], head[-1] if head else ROOT) == whole


@given(BLOCKS, BLOCKS)
def test_keys_are_equal_exactly_as_far_as_the_blocks_are(one, other):
    """As the plain hashes: the tag and the depth take nothing away."""
    for index, (a, b) in enumerate(zip(chain(one, ROOT), chain(other, ROOT), strict=False), 1):
        assert len(a) == 32
        assert (a == b) == (one[:index] == other[:index])


def test_segments_begin_where_they_should():
    """300 blocks: tags change at 0, 1, 4, 16 and 64 and nowhere else."""
    tags = [tag(key) for key in chain(range(300), ROOT)]
    changes = {at for at in range(300) if at == 0 or tags[at] != tags[at - 1]}
    assert changes == STARTS == {0, 1, 4, 16, 64}


@pytest.mark.data
@pytest.mark.skipif(not TRACE.is_dir(), reason="needs the Mooncake trace in STARLOOM_DATA")
def test_on_a_real_trace_nodes_are_filled_alike():
    """8 nodes, Mooncake's conversations: by segments none has a tenth more than its share.

    By chains one node would have all: every prompt of the trace begins with the same block.
    """
    nodes = [NodeAddress(name, "tcp://h:1") for name in "abcdefgh"]
    homes: dict[bytes, str] = {}
    placed: dict[bytes, str] = {}
    firsts = set()
    with (TRACE / "conversation_trace.jsonl").open() as lines:
        for line in lines:
            keys = chain(json.loads(line)["hash_ids"], ROOT)
            firsts.add(keys[0])
            for key in keys:
                if tag(key) not in homes:
                    homes[tag(key)] = home(tag(key), nodes).name
                placed[key] = homes[tag(key)]
    count = Counter(placed.values())
    assert len(firsts) == 1
    assert max(count.values()) < 1.1 * len(placed) / 8
