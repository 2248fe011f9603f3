"""What an offloaded path to a shelf of drives gains, and over what."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from starloom.fabric.storage import exposed_s, load, store
from starloom.site.catalogue import storage_paths
from starloom.site.storage import StoragePath
from starloom.studies.base import Findings, Options, Told

TITLE = "KV blocks from a shelf behind a DPU"
CLAIM = "the storage network is used 3 to 5 times better, and blocks come in half the time"
SOURCE = "vendor magazine 'New intelligent computing', article on storage with GPU, DPU and media"
MIB = 1 << 20
BLOCK_BYTES = 32 * MIB
"""256 tokens of Llama-3-8B in bf16."""
PROMPT_BLOCKS = 128
PREFILL_TOKENS_PER_S = 20_000.0
"""Of one GPU with that model: assumed."""


def run(options: Options, told: Told) -> Findings:
    """Put the offloaded path beside a polling host, the kernel, and a replicated store."""
    del options, told  # closed forms: nothing is drawn, nothing takes time
    paths = storage_paths()
    direct, kernel, general = paths["dpu_direct"], paths["host_kernel"], paths["replicated_store"]
    found = Findings()
    written = _wire_share(general, writes=True) / _wire_share(direct, writes=True)
    read = _wire_share(general, writes=False) / _wire_share(direct, writes=False)
    found.at_least(
        "bytes over the network for a written byte, a replicated store by ours",
        "x",
        3.0,
        written,
        "three replicas and a gateway give it; without the gateway it is 3",
    )
    found.at_least(
        "the same for a read byte",
        "x",
        3.0,
        read,
        "a read has no replicas to feed, so only the gateway is saved: KV that is read often "
        "stays below 3",
    )
    for size, name in ((64 << 10, "64 KiB"), (BLOCK_BYTES, "32 MiB")):
        for other, path in (("the kernel's path", kernel), ("a replicated store", general)):
            saved = 100 * (1 - _read_s(direct, size) / _read_s(path, size))
            found.at_least(f"read of {name}, saved against {other}", "%", 50.0, saved)
    found.beside(
        "software that the other path must spend for half the time at 64 KiB",
        "us",
        _break_even_us(direct, kernel, 64 << 10),
        "beyond the kernel's own; a gateway or a metadata service can, NVMe-oF alone cannot",
    )
    size = PROMPT_BLOCKS * BLOCK_BYTES
    computes_s = PROMPT_BLOCKS * 256 / PREFILL_TOKENS_PER_S
    for name, path in (("DPU", direct), ("kernel", kernel)):
        moved = load(path, size)
        waits = exposed_s(moved.seconds, computes_s, 0.0)
        found.beside(
            f"prefix of 32,768 tokens, {name}: GPU time returned",
            "s",
            computes_s - float(waits),
            f"loads in {float(moved.seconds):.2f} s at {float(moved.gb_per_s):.1f} GB/s "
            f"({moved.limits[0]}), host {float(moved.host_cpu_s):.3f} core-s; "
            f"computing it takes {computes_s:.2f} s",
        )
    found.notes.append("figures of the paths: site/catalogue/storage_paths.yaml, assumptions there")
    found.draw = partial(_draw, list(paths.values()))
    return found


def _wire_share(path: StoragePath, *, writes: bool) -> float:
    return float((store if writes else load)(path, MIB).wire_bytes) / MIB


def _read_s(path: StoragePath, size: int) -> float:
    return float(load(path, size).seconds)


def _break_even_us(direct: StoragePath, other: StoragePath, size: int) -> float:
    """What the other path must lose on top so that the direct one takes half of its time."""
    return max(0.0, 1e6 * (2 * _read_s(direct, size) - _read_s(other, size)))


def _draw(paths: Sequence[StoragePath], axes: Any) -> None:
    sizes = np.geomspace(4 << 10, 64 * MIB, 60)
    for path in paths:
        axes.plot(sizes / MIB, 1e6 * load(path, sizes).seconds, label=path.name)
    axes.set(xscale="log", yscale="log", xlabel="block, MiB", ylabel="read, us")
    axes.legend()
