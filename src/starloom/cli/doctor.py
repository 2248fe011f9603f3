"""`starloom doctor`: whether this machine has what a site needs."""

import importlib.util
import os
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from starloom.cli import show
from starloom.cli.up import DEFAULT_SITE
from starloom.serve.models import ModelFiles
from starloom.site import Site


class Finding(NamedTuple):
    """One checked thing. `ok` is None where it only limits what can be done."""

    thing: str
    ok: bool | None
    found: str
    fix: str


def doctor(
    file: Annotated[Path, typer.Argument(help="The site file to check for.")] = DEFAULT_SITE,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check this machine for FILE. Exit 1 when something that it needs is missing."""
    site = Site.load(file)
    found = [check(site) for check in CHECKS]
    if json:
        show.as_json([finding._asdict() for finding in found])
    else:
        marks = {True: "ok", False: "MISSING", None: "limited"}
        rows = [(f.thing, marks[f.ok], f.found, "" if f.ok else f.fix) for f in found]
        show.table(("check", "state", "found", "fix"), rows)
    if any(finding.ok is False for finding in found):
        raise typer.Exit(1)


def _python(_: Site) -> Finding:
    version = sys.version.split()[0]
    return Finding("Python", sys.version_info >= (3, 11), version, "install Python 3.11 or newer")


def _memfd(_: Site) -> Finding:
    has = hasattr(os, "memfd_create")
    fix = "the KV pool needs Linux; remove `pool` from the site"
    return Finding("shared memory (memfd)", has, "yes" if has else "no", fix)


def _torch(site: Site) -> Finding:
    needed = any(worker.engine == "embedded" for worker in site.workers)
    has = importlib.util.find_spec("torch") is not None
    fix = "pip install 'starloom[engine]' (`make up` takes torch's CPU build)"
    found = "installed" if has else "not installed"
    return Finding("torch (embedded engine)", has or (False if needed else None), found, fix)


def _cores(site: Site) -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = sum(worker.threads for worker in site.workers if worker.engine == "embedded")
    enough = (cores or 1) >= threads
    found = f"{cores} cores for {threads} engine threads"
    return Finding("cores", enough or None, found, "workers share cores: expect slower answers")


def _memory(site: Site) -> Finding:
    caches = sum(worker.kv_cache_gib for worker in site.workers if worker.engine != "openai")
    pool = site.pool.dram_gib if site.pool else 0.0
    weights = sum(_weight_gib(site, w.model) for w in site.workers if w.engine == "embedded")
    need = caches + pool + weights + 0.7 * len(site.workers)  # torch itself takes about 0.5 GiB
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    found = f"{have:.1f} GiB, about {need:.1f} GiB needed"
    return Finding("memory", have >= need, found, "lower `kv_cache_gib` and `dram_gib`")


def _weight_gib(site: Site, model: str) -> float:
    shape = ModelFiles(site, model).shape
    return shape.weights * shape.weight_bytes / 2**30


def _port(site: Site) -> Finding:
    gateway = site.gateway
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((gateway.host, gateway.port))
        except OSError as error:
            fix = "stop what listens there, or use `--port`"
            return Finding(f"port {gateway.port}", False, str(error.strerror), fix)
    return Finding(f"port {gateway.port}", True, "free", "")


def _gpu(_: Site) -> Finding:
    has = shutil.which("nvidia-smi") is not None
    return Finding("GPU", has or None, "yes" if has else "none found", "engines use the CPU")


def _data(_: Site) -> Finding:
    folder = Path(os.environ.get("STARLOOM_DATA", "../shared/data"))
    has = folder.is_dir()
    fix = "set STARLOOM_DATA for benches on real traces; synthetic data serves otherwise"
    return Finding("data", has or None, str(folder) if has else "none", fix)


CHECKS: tuple[Callable[[Site], Finding], ...] = (
    _python,
    _memfd,
    _torch,
    _cores,
    _memory,
    _port,
    _gpu,
    _data,
)
