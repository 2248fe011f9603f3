"""Which processes a site needs, and in which order they stop."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from starloom.kv.layout import PAGE_BYTES
from starloom.serve.models import ModelFiles
from starloom.serve.rundir import RunDir
from starloom.site import KvPool, Site


@dataclass(frozen=True, slots=True)
class Child:
    """One process: `kind` is gateway, worker or pool."""

    name: str
    kind: str
    command: tuple[str, ...]
    log: Path


def children(site: Site, rundir: RunDir) -> list[Child]:
    """The pool, the workers and the gateways, in the order in which they start.

    They stop the other way round: the gateway drains while its workers still answer.
    """
    return [*_pool(site, rundir), *_workers(site, rundir), *_gateways(site, rundir)]


def pool_slots(site: Site) -> dict[int, int]:
    """Slots by block size: the pool's memory in equal shares for each size that the models have."""
    if site.pool is None:
        return {}
    sizes = {ModelFiles(site, worker.model).block_bytes for worker in site.local_workers}
    share = int(site.pool.dram_gib * 2**30) // max(len(sizes), 1)
    return {size: share // size for size in sorted(sizes) if share >= size}


def ssd_slots(site: Site) -> dict[int, int]:
    """Slots on disk by block size, in equal shares; a slot has a header page and whole pages."""
    if site.pool is None or site.pool.ssd is None:
        return {}
    sizes = pool_slots(site)
    share = int(site.pool.ssd.gib * 2**30) // max(len(sizes), 1)
    strides = {size: PAGE_BYTES + -(-size // PAGE_BYTES) * PAGE_BYTES for size in sizes}
    return {size: share // stride for size, stride in strides.items() if share >= stride}


def _pool(site: Site, rundir: RunDir) -> Iterator[Child]:
    slots = pool_slots(site)
    if not slots:
        return
    command = [sys.executable, "-m", "starloom.kv.server", "--socket", str(rundir.pool_socket)]
    for size, count in slots.items():
        command += ["--slots", f"{size}x{count}"]
    if site.pool:
        command += ["--policy", site.pool.policy]
        command += ["--ssd-wait-s", str(0.6 * site.pool.timeout_s)]
    if site.pool and site.pool.ssd and (below := ssd_slots(site)):
        command += ["--ssd", str(site.base / site.pool.ssd.path)]
        command += ["--ssd-threads", str(site.pool.ssd.threads)]
        for size, count in below.items():
            command += ["--ssd-slots", f"{size}x{count}"]
    if site.pool:
        command += _kv_nodes(site, site.pool)
    yield Child("pool", "pool", tuple(command), rundir.log("pool"))


def _kv_nodes(site: Site, pool: KvPool) -> Iterator[str]:
    """What the pool's process is told of remote nodes."""
    for node in pool.nodes:
        yield from ("--node", f"{node.name}={node.address}*{node.weight:g}")
    if pool.nodes_file:
        yield from ("--nodes-file", str(site.base / pool.nodes_file))
    if not (pool.nodes or pool.nodes_file):
        return
    yield from ("--node-timeout-s", str(pool.node_timeout_s))
    if pool.key_file:
        yield from ("--tenant", pool.tenant, "--key-file", str(site.base / pool.key_file))
    if pool.tls.ca:
        yield from ("--ca", str(site.base / pool.tls.ca))


def _workers(site: Site, rundir: RunDir) -> Iterator[Child]:
    for worker in site.local_workers:
        module = "starloom.serve.engines.worker"
        command = (sys.executable, "-m", module, str(rundir.path), worker.name)
        yield Child(worker.name, "worker", command, rundir.log(worker.name))


def _gateways(site: Site, rundir: RunDir) -> Iterator[Child]:
    count = site.gateway.processes
    for number in range(count):
        name = "gateway" if count == 1 else f"gateway-{number}"
        module = "starloom.serve.gateway"
        command = (sys.executable, "-m", module, str(rundir.path), str(number))
        yield Child(name, "gateway", command, rundir.log(name))
