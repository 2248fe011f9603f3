"""`bench kv`: the pool's tiers beside the bare machine and beside its peers, in turns.

Cases: objects of 32 MiB (256 tokens of Llama-3-8B in bf16) in this process' memory (`dram32m`), in
another process' (`view32m`: pinned views, no copy; blocks in batches of 64), on disk (`ssd32m`),
over TCP on loopback (`remote32m`) and over AF_UNIX (`unix32m`, never called remote); pages of 1 MiB
to 64 KiB on disk (`ssd1m`, `ssd256k`, `ssd64k`), 32 MiB of them a call; keys of a prompt of a
million tokens (`hash1m`).

Systems: `starloom`; `memcpy`, `fio` (O_DIRECT, io_uring, the same size and depth) and `bare_tcp`
(`sendall`, `recv_into`; on AF_UNIX in `unix32m`) are the machine's own marks; `lmcache` (L1Manager,
`fs_native` with O_DIRECT, `resp` on redis-server, its TokenHasher), `mooncake` (TCP, zero-copy
calls), `nixl` (POSIX with O_DIRECT; UCX on TCP) and `redis` (its Python client) are peers, each in
its own environment (`make bench-peers`).

Metrics: `put_gbps`, `get_gbps` (1e9 bytes a second over a round, the median of rounds),
`get_p50_us` (of one object, amortised over its call, the median of calls), `cpu_s_per_gb` (all
processes of a system, puts and gets together). What came back is checked outside the time.
"""

import importlib.util
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from starloom.bench.base import BenchError, Options, Results, Told
from starloom.bench.kv_meters import (
    TOKENS,
    Bare,
    Case,
    Dram,
    Fio,
    Hash,
    Memcpy,
    Meter,
    Peer,
    Remote,
    Ssd,
    View,
)
from starloom.bench.kv_servers import Servers
from starloom.bench.peers import environment

_MIB = 1 << 20
_PEERS = ("lmcache", "mooncake", "nixl")
_SLOW = ("lmcache", "mooncake")
"""Take half a minute to start."""
CASES = (
    Case("dram32m", 32 * _MIB, 8),
    Case("view32m", 32 * _MIB, 64, 64),
    Case("ssd32m", 32 * _MIB, 8, 4),
    Case("ssd1m", _MIB, 256, 32),
    Case("ssd256k", _MIB // 4, 512, 128),
    Case("ssd64k", _MIB // 16, 1024, 512),
    Case("remote32m", 32 * _MIB, 6),
    Case("unix32m", 32 * _MIB, 6),
    Case("hash1m", 4 * TOKENS, 1),
)
QUICK = (
    Case("dram32m", 32 * _MIB, 4),
    Case("view32m", 32 * _MIB, 64, 64),
    Case("ssd1m", _MIB, 128, 32),
    Case("remote32m", 32 * _MIB, 4),
    Case("hash1m", 4 * TOKENS, 1),
)


@dataclass(slots=True)
class _Taken:
    """What one meter has measured."""

    put_s: list[float] = field(default_factory=list)
    get_s: list[float] = field(default_factory=list)
    """Seconds an object: the mean of each round."""
    calls_s: list[float] = field(default_factory=list)
    """Of each get."""
    cpu_s: float = 0.0
    objects: int = 0


def bench(options: Options, told: Told) -> Results:
    """Run all cases; raises BenchError when a system of ours fails."""
    results = Results()
    rounds = 2 if options.quick else 5
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="starloom-kv-")))
        setting = _Setting(folder, options.quick, stack.enter_context(Servers(folder)), results)
        for case in QUICK if options.quick else CASES:
            told(case.name)
            with ExitStack() as meters:
                running = list(setting.meters(case, meters))
                taken = _measure(running, rounds, told, results)
                _report(results, case, taken)
                _say(results, case, running, taken)
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    if load > cores + 1:
        results.notes.append(
            f"others used this machine: load {load:.1f} on {cores} cores. Rates are theirs too; "
            "compare figures of one case with each other, and better measure again"
        )
    return results


@dataclass(slots=True)
class _Setting:
    """Where cases run, and which systems there are."""

    folder: Path
    quick: bool
    servers: Servers
    results: Results

    def __post_init__(self) -> None:
        absent = [name for name in _PEERS if not environment(name).exists()]
        absent += [name for name in ("fio", "redis-server") if shutil.which(name) is None]
        if importlib.util.find_spec("redis") is None:
            absent.append("redis (the Python client)")
        notes = self.results.notes
        if absent:
            notes.append(f"absent: {', '.join(absent)} (make bench-peers; apt install fio redis)")
        if self.quick:
            notes.append(f"--quick: {', '.join(_SLOW)} are left out, for they start slowly")
        if shutil.disk_usage(self.folder).free < 4 << 30:
            raise BenchError(f"{self.folder}: 4 GiB must be free; set TMPDIR to a larger disk")

    def meters(self, case: Case, stack: ExitStack) -> Iterator[Meter]:
        """All systems of a case, peers first, for they start side by side."""
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=self.folder)))
        peers: list[Peer] = []
        for make in self._peers(case, folder):
            try:
                peers.append(make())
                stack.callback(peers[-1].close)
            except BenchError as error:
                self.results.notes.append(f"{case.name}: {error}")
        for meter in _ours(case, folder):
            stack.callback(meter.close)
            yield meter
        for peer in peers:
            try:
                peer.ready()
            except BenchError as error:
                self.results.notes.append(f"{case.name}: left out: {error}")
            else:
                yield peer

    def _peers(self, case: Case, folder: Path) -> Iterator[Callable[[], Peer]]:
        def has(name: str) -> bool:
            return environment(name).exists() and not (self.quick and name in _SLOW)

        def peer(name: str, way: str, **asked: object) -> Callable[[], Peer]:
            return lambda: Peer(name, environment(name), case, way, self.folder, **asked)

        if case.name in {"dram32m", "view32m"} and has("lmcache"):
            yield peer("lmcache", "dram", view=case.name == "view32m")
        if case.name == "dram32m" and has("mooncake"):
            yield lambda: self.servers.mooncake(case, held=False)
        if case.name.startswith("ssd"):
            if has("lmcache"):
                adapter = {"type": "fs_native", "base_path": str(folder), "use_odirect": True}
                yield peer("lmcache", "l2", adapter={**adapter, "num_workers": 4})
            if has("nixl"):
                yield peer("nixl", "file", files=str(folder))
        if case.name == "remote32m":
            if has("nixl"):
                yield peer("nixl", "remote")
            if has("mooncake"):
                yield lambda: self.servers.mooncake(case, held=True)
            if shutil.which("redis-server"):
                port, pid = self.servers.redis()
                if importlib.util.find_spec("redis") is not None:
                    python = Path(sys.executable)
                    yield lambda: Peer(
                        "redis", python, case, "remote", self.folder, port=port, pids=[pid]
                    )
                if has("lmcache"):
                    adapter = {"type": "resp", "host": "127.0.0.1", "port": port}
                    yield peer("lmcache", "l2", adapter=adapter, pids=[pid])
        if case.name == "hash1m" and has("lmcache"):
            yield peer("lmcache", "hash", count=TOKENS, chunk=256)


def _ours(case: Case, folder: Path) -> Iterator[Meter]:
    """Ours, and the machine's own mark."""
    match case.name:
        case "dram32m":
            yield Memcpy(case)
            yield Dram(case)
        case "view32m":
            yield View(case, folder)
        case "remote32m":
            yield Bare(case, "tcp://127.0.0.1:0")
            yield Remote(case, "tcp://127.0.0.1:0")
        case "unix32m":
            yield Bare(case, f"unix://{folder}/bare")
            yield Remote(case, f"unix://{folder}/node")
        case "hash1m":
            yield Hash()
        case _:
            if shutil.which("fio"):
                yield Fio(case, folder)
            yield Ssd(case, folder)


def _measure(
    meters: Sequence[Meter], rounds: int, told: Told, results: Results
) -> dict[str, _Taken]:
    """A round of each in turn, the first one for warmth; who goes first changes."""
    taken = {meter.system: _Taken() for meter in meters}
    left = list(meters)
    for turn in range(rounds + 1):
        order = left[turn % len(left) :] + left[: turn % len(left)]
        for meter in order:
            told(f"  round {turn}: {meter.system}")
            before_s = _cpu_s(meter)
            try:
                found = meter.round()
            except BenchError as error:
                if not isinstance(meter, Peer):
                    raise
                results.notes.append(f"left out: {error}")
                left.remove(meter)
                continue
            if turn:
                so_far = taken[meter.system]
                so_far.cpu_s += _cpu_s(meter) - before_s
                so_far.put_s += [statistics.fmean(found.put_s)] if found.put_s else []
                so_far.get_s.append(statistics.fmean(found.get_s))
                so_far.calls_s += found.get_s
                so_far.objects += found.objects
    return taken


def _cpu_s(meter: Meter) -> float:
    """CPU seconds of this process and of those that work for a meter."""
    clocks = [~pid << 3 | 2 for pid in meter.pids()]  # what clock_getcpuclockid(3) answers
    others_s = sum(map(time.clock_gettime, clocks))
    return time.process_time() + others_s + (meter.cpu_s if isinstance(meter, Fio) else 0.0)


def _report(results: Results, case: Case, taken: dict[str, _Taken]) -> None:
    for system, it in taken.items():
        if not it.objects:
            continue
        if it.put_s:
            gbps = case.size / statistics.median(it.put_s) / 1e9
            results.add(system, case.name, "put_gbps", gbps, "GB/s")
        if case.name not in {"view32m", "hash1m"}:  # no bytes move
            gbps = case.size / statistics.median(it.get_s) / 1e9
            results.add(system, case.name, "get_gbps", gbps, "GB/s")
        p50_us = statistics.median(it.calls_s) * 1e6
        results.add(system, case.name, "get_p50_us", p50_us, "us")
        moved_gb = it.objects * case.size / 1e9
        results.add(system, case.name, "cpu_s_per_gb", it.cpu_s / moved_gb, "s/GB")


def _say(results: Results, case: Case, meters: Sequence[Meter], taken: dict[str, _Taken]) -> None:
    """Ours as a share of each other system's, and what has no row."""
    ours = taken["starloom"]
    shares = []
    for system, it in taken.items():
        if system == "starloom" or not it.objects:
            continue
        put = statistics.median(it.put_s) / statistics.median(ours.put_s) if it.put_s else 0.0
        get = statistics.median(it.get_s) / statistics.median(ours.get_s)
        shares.append(f"{system} " + (f"put {put:.2f} get {get:.2f}" if put else f"{get:.2f}"))
    if shares:
        results.notes.append(f"{case.name}: rate as a multiple of others': {'; '.join(shares)}")
    for meter in meters:
        if isinstance(meter, View):
            single_us = statistics.median(meter.single_us)
            results.notes.append(f"view32m: a single block takes {single_us:.0f} us")
            results.notes.append(
                "view32m: lmcache is asked in its own process; ours there takes "
                f"{meter.in_one_process_us():.2f} us"
            )
        if isinstance(meter, Hash):
            ms = meter.of_list_ms()
            results.notes.append(f"hash1m: from a list of Python's numbers {ms:.1f} ms")
