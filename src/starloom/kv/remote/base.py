"""Nodes by name and address, and what a node tells of itself.

A *node* is a process of `starloom kv serve`: memory, and disk below it, for blocks of many hosts.
Its clients place every block themselves (`placement`), so nodes know nothing of each other. What a
node loses is recomputed by whoever misses it.
"""

from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec

from starloom.kv.base import PoolStat

State = Literal["well", "leaving", "ill"]


class NodeAddress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A node as its clients know it. Raises ValueError for what is no address or weight."""

    name: str
    """Placement hashes it: a node that moves keeps its blocks' home with its name."""
    address: str
    """`tcp://HOST:PORT`, `tls://HOST:PORT` or `unix:///PATH`.

    Time limits do not hold while the system resolves a name: write IP addresses where a resolver
    may hang.
    """
    weight: float = 1.0
    """Its share of all blocks is this over the sum of weights; say, its GiB."""

    def __post_init__(self) -> None:
        parse(self.address)
        if not 0 < self.weight < float("inf"):
            raise ValueError(f"node {self.name!r}: the weight must be above 0")
        if not 0 < len(self.name.encode()) <= 64:
            raise ValueError(f"node {self.name!r}: give it a name of up to 64 bytes")

    @classmethod
    def read(cls, text: str) -> "NodeAddress":
        """`NAME=ADDRESS` or `NAME=ADDRESS*WEIGHT`, as on a command line. Raises ValueError."""
        name, sign, rest = text.partition("=")
        address, _, weight = rest.partition("*")
        if not (sign and name and address):
            raise ValueError(f"{text!r}: write NAME=ADDRESS, such as a=tcp://10.0.0.1:7801")
        return cls(name, address, float(weight or 1))

    def __str__(self) -> str:
        return f"{self.name}={self.address}*{self.weight:g}"


class Endpoint(NamedTuple):
    """Where to connect, or to listen."""

    host: str
    port: int
    path: Path | None
    tls: bool

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'tls' if self.tls else 'tcp'}://{host}:{self.port}"


def parse(address: str) -> Endpoint:
    """Raises ValueError, with the forms that there are."""
    forms = "write tcp://HOST:PORT, tls://HOST:PORT or unix:///PATH"
    parts = urlsplit(address)
    if parts.scheme == "unix" and parts.path.startswith("/") and not parts.netloc:
        return Endpoint("", 0, Path(parts.path), tls=False)
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{address!r}: {error}; {forms}") from error
    rest = parts.path or parts.query or parts.fragment or parts.username
    if parts.scheme not in {"tcp", "tls"} or not host or port is None or rest:
        raise ValueError(f"{address!r} is no address of a node: {forms}")
    return Endpoint(host, port, None, tls=parts.scheme == "tls")


class TenantStat(msgspec.Struct, kw_only=True):
    """One tenant's counters since the node started."""

    memory_hit_blocks: int = 0
    ssd_hit_blocks: int = 0
    missed_blocks: int = 0
    put_blocks: int = 0
    bad_blocks: int = 0
    """Came with a sum that does not agree with their bytes; not kept."""
    got_bytes: int = 0
    put_bytes: int = 0
    never_read_blocks: int = 0
    """Left memory and disk without ever having been read."""


class NodeStat(msgspec.Struct, frozen=True, kw_only=True):
    """What a node tells. A tenant sees its own part; the operator, on loopback, all of it."""

    name: str
    version: str
    uptime_s: float
    state: State
    why: str
    """What is wrong; empty when nothing is."""
    classes: list[tuple[int, int]]
    """Slot bytes and slots."""
    tenant: TenantStat
    """Of the one who asks; for the operator the sum."""
    tenants: dict[str, TenantStat] = {}
    pool: PoolStat | None = None
    connections: int = 0


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A node as a client sees it now."""

    name: str
    address: str
    weight: float
    up: bool
    """Whether blocks are placed on it."""
    why: str
    rtt_s: float
    """Of the last heartbeat; 0 before the first."""
    bytes_per_s: float
    """Of gets, as they went lately; 0 before the first."""
