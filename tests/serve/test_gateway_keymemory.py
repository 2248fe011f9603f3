"""Keys that were remembered are the keys that would be computed."""

from hypothesis import given
from hypothesis import strategies as st

from starloom.kv.keys import data_keys
from starloom.serve.gateway.keymemory import KeyMemory


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=6),
    st.integers(1, 40),
    st.sampled_from([4, 16]),
)
def test_remembered_keys_are_the_same_keys(parts, tail, block_bytes):
    """Whatever was seen before: stretches that repeat elsewhere do not bring their keys along."""
    memory = KeyMemory(stretches=3)
    step = 64 * block_bytes
    data = b"".join(bytes([part]) * step for part in parts) + b"x" * tail
    for end in (len(data), len(data) - 5, step // 2, len(data)):
        for root in (b"r" * 32, b"s" * 32):
            assert memory.data_keys(root, data[:end], block_bytes) == data_keys(
                root, data[:end], block_bytes
            )
    assert len(memory._known) <= 3
