"""How bytes get from the drives of a shelf into the memory of a GPU, and back."""

from typing import Annotated, Literal

from pydantic import Field

from starloom.site.base import Count, Name, Noun, Positive, Share

NotNegative = Annotated[float, Field(ge=0)]


class Drives(Noun):
    """The NVMe drives behind one path."""

    count: Count
    read_gb_per_s: Positive
    write_gb_per_s: Positive
    """Sustained, of one drive, in 10**9 bytes."""
    read_us: NotNegative
    write_us: NotNegative
    """From command to completion of a small operation on an idle drive."""


class StoragePath(Noun):
    """One way for blocks between a shelf of drives and a GPU, as one host sees it."""

    name: Name
    drives: Drives
    port_gbps: Positive
    """Line rate of the host's port into the storage network."""
    port_efficiency: Share
    one_way_us: NotNegative
    """NIC to NIC over the storage network."""
    host_us: NotNegative
    shelf_us: NotNegative
    """What software or hardware adds to an operation, on either side."""
    host_cpu_us: NotNegative
    shelf_cpu_us: NotNegative
    """Of one core, for an operation."""
    cores: Count = 1
    """Host cores that drive the path at most."""
    depth: Count = 64
    """Operations on their way at one time."""
    operation_kib: Positive = 1024
    """The largest operation; larger blocks are split."""
    gpu_gb_per_s: Positive
    """What a GPU's own link takes or gives."""
    staged: bool
    """Whether bytes rest in host memory between network and GPU."""
    staged_write_share: Share = 1.0
    """What staging leaves of the write rate."""
    gateways: Annotated[int, Field(ge=0)] = 0
    """Servers between host and shelf that take blocks in whole and send them on."""
    gateway_us: NotNegative = 0.0
    """Software of one of them, for an operation."""
    replicas: Count = 1
    """Copies of a written block; all but the first cross the network between shelves."""
    source: str
    verified: Literal["yes", "partial", "no"]
