"""What the SSD tier tells."""

from collections.abc import Callable

import msgspec

Done = Callable[[bool], None]
"""Called from an I/O thread at the end of a job: whether it did what it should."""


class SsdStat(msgspec.Struct, frozen=True, kw_only=True):
    """Counters since the start, and what is held now."""

    slots: int
    blocks: int
    put_blocks: int
    hit_blocks: int
    evicted_blocks: int
    bad_blocks: int
    """Read and found torn, corrupted or cut off."""
    refused_blocks: int
    """Not taken: the queue was full, the disk ill, or every slot in use."""
    errors: int
    waiting: int
    healthy: bool
    why: str
    """What is wrong; empty when nothing is."""
