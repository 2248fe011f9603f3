"""Which blocks of a chain live together: a part of every key says so. Pure.

    key   tag (8 bytes) | depth (1 byte) | hash of the whole prefix (23 bytes)

`depth` counts the blocks up to this one, to 255. Blocks of one *segment* carry the same tag, out of
the hash of the segment's first block. Segments begin at blocks 0, 1, 4, 16 and 64 of a chain: what
many prompts share (a system prompt) is spread in small pieces, the long rest of a conversation
stays in one. Were a chain one segment, all prompts that begin alike would live on one node: on the
Mooncake conversation trace every prompt begins with the same 512 tokens, so of 8 nodes one would
hold everything (`docs/kv.md`).
"""

TAG_BYTES = 8
STARTS = frozenset({0, 1, 4, 16, 64})
_DEPTHS = [bytes([depth]) for depth in range(256)]


def root(digest: bytes) -> bytes:
    """The key before the first block, out of a 32-byte hash."""
    return digest[:TAG_BYTES] + _DEPTHS[0] + digest[TAG_BYTES + 1 :]


def following(parent: bytes, digest: bytes) -> bytes:
    """The key of the block after `parent`, out of the hash of both."""
    depth = parent[TAG_BYTES]
    if depth == 255:
        return parent[: TAG_BYTES + 1] + digest[TAG_BYTES + 1 :]
    tag = digest[:TAG_BYTES] if depth in STARTS else parent[:TAG_BYTES]
    return tag + _DEPTHS[depth + 1] + digest[TAG_BYTES + 1 :]


def tag(key: bytes) -> bytes:
    """What a block is placed by."""
    return key[:TAG_BYTES]
