"""The KV pool and its tiers."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from starloom.site.base import Name, Noun, Port, Positive

_ADDRESS = re.compile(r"^(tcp|tls)://[^/@\s]+:([0-9]{1,5})$|^unix:///\S+$")


def _address(text: str) -> str:
    found = _ADDRESS.match(text)
    if found is None or int(found[2] or 0) > 65535:
        forms = "tcp://HOST:PORT, tls://HOST:PORT or unix:///PATH"
        raise ValueError(f"{text!r} is no address of a node: write {forms}")
    return text


Address = Annotated[str, AfterValidator(_address)]


class KvSsd(Noun):
    """Disk below the pool's memory. Its blocks are found again after a restart."""

    path: Annotated[str, Field(min_length=1)]
    """A folder of this pool alone, on the disk that is meant; relative to the site file."""
    gib: Positive
    """Preallocated when the pool starts."""
    threads: Annotated[int, Field(ge=1, le=64)] = 4


class KvNode(Noun):
    """A node of `starloom kv serve`: memory for blocks of many hosts."""

    name: Name
    """Blocks are placed by it: a node that moves to another address keeps its name."""
    address: Address
    """Where clients find it: `tcp://HOST:PORT`, `tls://HOST:PORT` or `unix:///PATH`."""
    weight: Positive = 1.0
    """Its share of all blocks is this over the sum of weights; say, its GiB."""
    listen: list[Address] = []
    """Where it listens; `address` by default."""
    dram_gib: Positive = 1.0
    ssd: KvSsd | None = None
    metrics_port: Port | None = None
    """/metrics, /health and /stat on loopback; none by default, 0 lets the system choose."""


class KvTls(Noun):
    """Certificate files, relative to the site file. Needed for `tls://` addresses."""

    ca: str | None = None
    """For clients: what signs the nodes' certificates."""
    cert: str | None = None
    """For nodes: the certificate chain ..."""
    key: str | None = None
    """... and its private key, readable by its owner alone."""


class KvPool(Noun):
    """The shared KV pool of this site: a process on this host, and nodes that hosts share."""

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
    nodes: list[KvNode] = []
    """What engines put goes on to these, and a `get` that ends here goes on there."""
    nodes_file: str | None = None
    """More nodes: a YAML list of name, address and weight, read again whenever it changes."""
    node_timeout_s: Positive = 1.0
    """A call to a node ends within this; what has come of it counts."""
    tenant: Name = "open"
    """Who this site is to its nodes."""
    key_file: str | None = None
    """That tenant's key (`starloom kv key`), readable by its owner alone."""
    tenants_file: str | None = None
    """For nodes: who may ask, a line a key, as `starloom kv key` prints it."""
    tls: KvTls = KvTls()
