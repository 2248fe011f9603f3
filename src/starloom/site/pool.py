"""The KV pool and its tiers."""

from typing import Annotated, Literal

from pydantic import Field

from starloom.site.base import Name, Noun, Positive


class KvSsd(Noun):
    """Disk below the pool's memory. Its blocks are found again after a restart."""

    path: Annotated[str, Field(min_length=1)]
    """A folder of this pool alone, on the disk that is meant; relative to the site file."""
    gib: Positive
    """Preallocated when the pool starts."""
    threads: Annotated[int, Field(ge=1, le=64)] = 4


class KvPool(Noun):
    """The shared KV pool of this site: one process a node for now."""

    node: Name
    dram_gib: Positive = 0.5
    ssd: KvSsd | None = None
    """Takes what memory evicts; a `get` waits for it for .6 of `timeout_s`."""
    policy: Literal[
        "lru",
        "fifo",
        "lfu",
        "sieve",
        "s3fifo",
        "wtinylfu",
        "arc",
        "mq",
        "hazard",
        "starloom",
    ] = "lru"
    """Which blocks go from memory first (`docs/eviction.md`)."""
    timeout_s: Positive = 0.25
    """An engine waits this long for the pool, then computes by itself."""
