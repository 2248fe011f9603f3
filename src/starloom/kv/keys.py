"""Block keys: a blake3 chain over the tokens of a prefix.

key[i] = blake3(key[i-1] || tokens of block i as big-endian uint32), key[-1] = root. The root binds
what must never be mixed: model weights, KV layout, block size and tenant. Nothing depends on
`PYTHONHASHSEED`, so that any process computes the same keys.
"""

from collections.abc import Sequence

import numpy as np
from blake3 import blake3

KEY_BYTES = 32


def root_key(*, fingerprint: str, block_tokens: int, salt: str) -> bytes:
    """The key before the first block.

    `fingerprint` names the weights and the KV layout, `salt` the tenant (or any other wall between
    caches). Fields are length-prefixed, so that no two different triples give the same bytes.
    """
    hasher = blake3(b"starloom.kv.root.v1")
    for field in (fingerprint.encode(), str(block_tokens).encode(), salt.encode()):
        hasher.update(len(field).to_bytes(4, "big"))
        hasher.update(field)
    return hasher.digest()


def block_keys(root: bytes, tokens: Sequence[int], block_tokens: int) -> list[bytes]:
    """Keys of the full blocks of `tokens` (a trailing partial block has none)."""
    full = len(tokens) // block_tokens * block_tokens
    data = np.asarray(tokens[:full], dtype=">u4").tobytes()
    return data_keys(root, data, block_tokens * 4)


def data_keys(root: bytes, data: bytes, block_bytes: int) -> list[bytes]:
    """The same chain over the full blocks of `data`, for prompts whose tokens are not known."""
    keys: list[bytes] = []
    parent = root
    for start in range(0, len(data) - block_bytes + 1, block_bytes):
        parent = blake3(parent + data[start : start + block_bytes]).digest()
        keys.append(parent)
    return keys
