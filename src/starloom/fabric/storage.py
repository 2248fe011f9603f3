"""Blocks between a shelf of drives and a GPU: how long, over what, and who works for it.

One path is a row of stations that bytes pass in a pipeline. An operation takes the sum of its
stations, many take what the slowest station gives:

    T = t(one operation) + (bytes - first operation) / rate
    rate = min(drives, port, GPU link, depth * operation / t, operation * cores / CPU time)

The last but one is Little's law: `depth` operations on their way. A staged path keeps each
operation in host memory before it goes on, so the GPU's link adds to `t` once more; a gateway does
the same between host and shelf. Nothing here is tuned: figures are the catalogue's
(`storage_paths.yaml`), with what is assumed marked there.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from starloom.site.storage import StoragePath

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Transfer:
    """What moving blocks takes; arrays have the shape of the sizes asked for."""

    seconds: Array
    operation_s: Array
    """One operation alone, command to completion."""
    gb_per_s: Array
    """The rate that long transfers tend to, in 10**9 bytes."""
    limits: tuple[str, ...]
    """The station that sets it, for each size (flattened)."""
    host_cpu_s: Array
    """Core-seconds of the host."""
    wire_bytes: Array
    """Bytes over links of the storage network, copies between shelves and gateways included."""


def load(path: StoragePath, size_bytes: ArrayLike) -> Transfer:
    """Read blocks of these sizes (bytes, any shape) into a GPU's memory."""
    return _moved(path, size_bytes, writes=False)


def store(path: StoragePath, size_bytes: ArrayLike) -> Transfer:
    """Write blocks of these sizes (bytes, any shape) from a GPU's memory, replicas included."""
    return _moved(path, size_bytes, writes=True)


def exposed_s(load_s: ArrayLike, compute_s: ArrayLike, overlap: float) -> Array:
    """Seconds for which a GPU waits: what of a load its computing does not cover.

    `overlap` is the share of the computing that may run meanwhile: layers behind one another give
    (layers - 1) / layers, a load before all computing 0.
    """
    waits: Array = np.maximum(0.0, np.asarray(load_s) - overlap * np.asarray(compute_s))
    return waits


def _moved(path: StoragePath, size_bytes: ArrayLike, *, writes: bool) -> Transfer:
    sizes = np.asarray(size_bytes, dtype=float)
    if sizes.size == 0 or not np.all(np.isfinite(sizes)) or np.any(sizes <= 0):
        raise ValueError("sizes must be positive numbers of bytes")
    drives = path.drives
    operation = np.minimum(sizes, path.operation_kib * 1024)
    port = 1e9 / 8 * path.port_gbps * path.port_efficiency
    gpu = 1e9 * path.gpu_gb_per_s
    if writes and path.staged:
        gpu = gpu * path.staged_write_share
    drive = 1e9 * (drives.write_gb_per_s if writes else drives.read_gb_per_s)
    legs = 1 + path.gateways
    hops = legs + (path.replicas > 1 and writes)
    operation_s = (
        1e-6
        * (
            path.host_us
            + 2 * path.one_way_us * hops
            + path.gateway_us * path.gateways
            + path.shelf_us * (1 + (hops > legs))
            + (drives.write_us if writes else drives.read_us)
        )
        + operation / drive
        + legs * operation / port
        + (operation / gpu if path.staged else 0.0)
    )
    stations = {
        "drives": np.full_like(sizes, drive * drives.count / (path.replicas if writes else 1)),
        "port": np.full_like(sizes, port),
        "gpu link": np.full_like(sizes, gpu),
        "depth": path.depth * operation / operation_s,
    }
    if path.host_cpu_us:
        stations["host cpu"] = operation * path.cores / (1e-6 * path.host_cpu_us)
    names = list(stations)
    rates = np.stack([stations[name] for name in names])
    slowest = rates.argmin(axis=0)
    rate = rates.min(axis=0)
    copies = path.replicas - 1 if writes else 0
    return Transfer(
        seconds=operation_s + (sizes - operation) / rate,
        operation_s=operation_s,
        gb_per_s=rate / 1e9,
        limits=tuple(names[at] for at in slowest.ravel()),
        host_cpu_s=np.ceil(sizes / operation) * 1e-6 * path.host_cpu_us,
        wire_bytes=sizes * (legs + copies),
    )
