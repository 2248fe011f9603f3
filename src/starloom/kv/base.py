"""The contract of a KV pool: blocks in by key, the longest known prefix out.

A *block* is the KV cache of `block_tokens` consecutive tokens of one sequence, all layers, as
opaque bytes. Its *key* covers the whole prefix up to its last token (see `starloom.kv.keys`), so
that equal keys mean equal contents and a list of keys is a path in a prefix tree. Blocks are
ephemeral: whoever misses one computes it again, so there is no replication, no journal and no
strong consistency.
"""

from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

import msgspec
from typing_extensions import Buffer


class PoolStat(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of one pool since it started, and what it holds now."""

    slots: int
    slot_bytes: int
    """Size of the largest slot: a larger block is refused."""
    blocks: int
    pinned_blocks: int
    connections: int
    lookups: int
    """Calls of `get`. Hits and misses are theirs too: `longest_prefix` counts nothing."""
    hit_blocks: int
    missed_blocks: int
    put_blocks: int
    rejected_blocks: int
    evicted_blocks: int
    """Out of memory; with an SSD tier most of them live on there."""
    ssd_slots: int = 0
    ssd_blocks: int = 0
    ssd_hit_blocks: int = 0
    """Brought up from disk for a `get`; a part of `hit_blocks` unless they came too late."""
    demoted_blocks: int = 0
    dropped_blocks: int = 0
    """Evicted before they were on disk."""
    ssd_evicted_blocks: int = 0
    ssd_bad_blocks: int = 0
    """Found torn, corrupted or cut off when read."""
    ssd_errors: int = 0
    ssd_healthy: bool = True
    nodes: int = 0
    nodes_up: int = 0
    """Remote nodes, and those of them that blocks are placed on now."""
    remote_hit_blocks: int = 0
    """Brought in from nodes for a `get`; a part of `hit_blocks` unless they came too late."""
    remote_put_blocks: int = 0
    remote_dropped_blocks: int = 0
    """Put here and not sent on: no room in the queue, no node, or evicted before their turn."""
    remote_healthy: bool = True
    """Whether the threads that talk to nodes are alive."""


@runtime_checkable
class Lease(Protocol):
    """Blocks pinned for reading. Views stay valid until `release`, which may be called twice."""

    views: Sequence[memoryview]
    """One read-only view a block, in the order of the keys asked for."""

    def valid(self) -> bool:
        """Whether what has been read from the views until now is what was put.

        False after `release`, and false when the pool gave the pins up behind our back (the
        connection was lost and the pool lives on) and has reused a slot since. So: copy, then ask.
        """

    def release(self) -> None:
        """Unpin the blocks. The views must not be read after this."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class Pool(Protocol):
    """What an engine sees of a pool, in its own process or behind a socket.

    Every call either answers, or raises `PoolUnavailable` within the pool's time limit: a caller
    never hangs on it and treats that error as a miss.
    """

    def longest_prefix(self, keys: Sequence[bytes]) -> int:
        """How many leading `keys` are held. Reads only: renews no lease and no recency."""

    def get(self, keys: Sequence[bytes]) -> Lease:
        """Pin the longest held prefix of `keys`, and touch it tail first.

        `len(lease.views)` is the number of blocks found; it may be 0.
        """

    def put(self, blocks: Sequence[tuple[bytes, Buffer]]) -> int:
        """Store copies of the blocks that are not held yet; return how many were stored.

        Blocks are given in prefix order. When every slot is pinned the tail is left out.
        """

    def stat(self) -> PoolStat: ...

    def close(self) -> None: ...
