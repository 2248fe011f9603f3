"""`bench kvshare`: one prompt on three engines, with a shared pool and without.

Host `one` has two embedded engines of loom-s and a pool; host `two`, in a network namespace, has a
pool of its own and one engine. A node of `starloom kv serve` is reached over TCP from both, over a
veth pair by `two`, with a tenant's key. Each prompt is computed on the first engine of `one`; then

- `same_host`: the second engine of `one` is asked it: KV comes out of the host's memory,
- `other_host`: the engine of `two` is asked it: KV comes over the network.

`shared` has the node, `alone` has pools that know nobody. Answers must be the same on all three.
Without root there is no namespace: both hosts are then on loopback, and a note says so.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from starloom.bench.base import BenchError, Options, Results, Told
from starloom.kv import PoolClient
from starloom.kv.remote import Secret
from starloom.kv.remote.auth import tenant_line, write_private
from starloom.serve.rundir import RunDir
from starloom.serve.stack.children import children
from starloom.site import Site

MODEL, BLOCK_TOKENS = "loom-s", 64
LENGTHS = (8192, 32704)
"""The longest prompt and its answer just fill the model's context."""
_WAIT_S = 120.0
_SUBNET = "10.213.{}."


@dataclass(frozen=True, slots=True)
class _Host:
    """Where a host's processes run, and what they see of the node."""

    name: str
    prefix: tuple[str, ...]
    workers: tuple[str, ...]


def bench(options: Options, told: Told) -> Results:
    """Run both arms; raises BenchError when something does not start, or answers differ."""
    results = Results()
    lengths = LENGTHS[:1] if options.quick else LENGTHS
    rounds = 1 if options.quick else 3
    with ExitStack() as stack:
        prefix, address = stack.enter_context(_network(results))
        hosts = (_Host("one", (), ("a", "b")), _Host("two", prefix, ("c",)))
        times: dict[str, dict[str, list[float]]] = {}
        for arm in ("alone", "shared"):
            with _Arm(hosts, address if arm == "shared" else None) as running:
                for length in lengths:
                    for at in range(rounds if length == LENGTHS[0] else 1):
                        told(f"{arm}, {length} tokens, round {at + 1}")
                        seed = 1000 * options.seed + at + 1
                        _round(running, arm, seed, length, times)
    for case, arms in times.items():
        for arm, seconds in arms.items():
            results.add(arm, case, "ttft_ms", 1e3 * statistics.median(seconds), "ms")
        if not case.endswith("computed"):
            gain = statistics.median(arms["alone"]) / statistics.median(arms["shared"])
            results.add("shared", case, "speedup", gain, "x")
    results.notes.append(
        f"{MODEL} in float32, 3 KiB of KV a token; all engines, pools and the node share this"
        " machine's cores, one is asked at a time"
    )
    return results


def _round(
    running: "_Arm", arm: str, seed: int, length: int, times: dict[str, dict[str, list[float]]]
) -> None:
    """One prompt on all three engines."""
    size = f"{round(length / 1024)}k"
    first = running.ask("a", seed, length)
    running.settle(length)
    found = {"computed": first, "same_host": running.ask("b", seed, length)}
    found["other_host"] = running.ask("c", seed, length)
    if len({each["text"] for each in found.values()}) != 1:
        raise BenchError(f"the engines answer differently: {found}")
    if arm == "shared" and not found["other_host"]["pool_tokens"]:
        raise BenchError("nothing came from the node in time")
    for case, each in found.items():
        times.setdefault(f"{size}_{case}", {}).setdefault(arm, []).append(each["ttft_s"])


class _Arm:
    """Pools, engines and perhaps a node, as processes that end with the block."""

    def __init__(self, hosts: Sequence[_Host], address: str | None) -> None:
        self._hosts, self._address = hosts, address
        self._stack = ExitStack()
        self._engines: dict[str, _Process] = {}
        self._pool: PoolClient

    def __enter__(self) -> "_Arm":
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loom-")))
            if self._address is not None:
                self._start_node(stack, folder)
            for host in self._hosts:
                self._start_host(stack, folder, host)
            for engine in self._engines.values():
                engine.line()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def ask(self, worker: str, seed: int, tokens: int) -> dict[str, Any]:
        return self._engines[worker].ask({"seed": seed, "tokens": tokens})

    def settle(self, tokens: int) -> None:
        """Wait until the first host's blocks have gone where they go."""
        until = time.monotonic() + _WAIT_S
        before = -1
        while time.monotonic() < until:
            stat = self._pool.stat()
            done = stat.remote_put_blocks if self._address else stat.put_blocks
            if done == before and done >= tokens // BLOCK_TOKENS:
                return
            before = done
            time.sleep(0.3)
        raise BenchError(
            f"of {tokens // BLOCK_TOKENS} blocks {before} were kept: {self._pool.stat()}"
        )

    def _start_node(self, stack: ExitStack, folder: Path) -> None:
        secret = Secret.new("bench")
        write_private(folder / "key", secret.text())
        write_private(folder / "tenants", tenant_line("bench", secret.verifier()))
        file = folder / "node.json"
        file.write_text(
            _site(self._hosts[0], self._address, folder).model_dump_json(exclude={"base"})
        )
        command = [sys.executable, "-m", "starloom.cli.main", "kv", "serve", str(file)]
        _Process(stack, [*command, "--name", "kv", "--json"], folder / "node.log").line()

    def _start_host(self, stack: ExitStack, folder: Path, host: _Host) -> None:
        site = _site(host, self._address, folder)
        run = RunDir(folder / host.name)
        run.create()
        run.write_site(site)
        command = [*host.prefix, *children(site, run)[0].command]
        pool = _Process(stack, command, folder / f"pool-{host.name}.log")
        until = time.monotonic() + _WAIT_S
        while not run.pool_socket.exists():
            pool.check()
            if time.monotonic() > until:
                raise BenchError(f"the pool of host {host.name} does not start")
            time.sleep(0.05)
        if host.name == "one":
            self._pool = PoolClient(run.pool_socket, 5.0)
            stack.callback(self._pool.close)
        module = "starloom.bench.kvshare_engine"
        for worker in host.workers:
            command = [*host.prefix, sys.executable, "-m", module, str(run.path), worker]
            self._engines[worker] = _Process(stack, command, folder / f"{worker}.log")


def _site(host: _Host, address: str | None, folder: Path) -> Site:
    pool: dict[str, object] = {"node": "n", "dram_gib": 0.5, "timeout_s": 4.0}
    if address is not None:
        pool["nodes"] = [{"name": "kv", "address": address, "dram_gib": 0.5}]
        pool |= {"node_timeout_s": 4.0, "tenant": "bench", "key_file": "key"}
        pool["tenants_file"] = "tenants"
    worker = {"node": "n", "model": MODEL, "engine": "embedded", "kv_cache_gib": 0.2}
    return Site.model_validate(
        {
            "name": f"bench-kvshare-{host.name}",
            "base": folder,
            "nodes": [{"name": "n"}],
            "models": [{"name": MODEL, "path": f"package:{MODEL}", "block_tokens": BLOCK_TOKENS}],
            "workers": [{"name": name, **worker} for name in host.workers],
            "pool": pool,
        }
    )


class _Process:
    """A process that speaks JSON lines, and ends with the stack however that ends."""

    def __init__(self, stack: ExitStack, command: Sequence[str], log: Path) -> None:
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True
            )
        stack.callback(self._end)

    def ask(self, prompt: dict[str, int]) -> dict[str, Any]:
        if self._process.stdin is not None:
            self._process.stdin.write(json.dumps(prompt) + "\n")
            self._process.stdin.flush()
        return self.line()

    def line(self) -> dict[str, Any]:
        """The next line; raises BenchError with the log's last one when the process has ended."""
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            self._ended()
        found: dict[str, Any] = json.loads(line)
        return found

    def check(self) -> None:
        """Raises BenchError when the process has ended."""
        if self._process.poll() is not None:
            self._ended()

    def _ended(self) -> NoReturn:
        last = self._log.read_text().strip().rpartition("\n")[2]
        raise BenchError(f"{self._log.stem} has ended: {last}")

    def _end(self) -> None:
        self._process.terminate()
        try:
            self._process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


@contextmanager
def _network(results: Results) -> Iterator[tuple[tuple[str, ...], str]]:
    """How to start a process on host `two`, and where the node listens."""
    port = 20000 + os.getpid() % 20000
    if os.geteuid() != 0 or shutil.which("ip") is None:
        results.notes.append("host `two` is on loopback: a network namespace needs root and `ip`")
        yield (), f"tcp://127.0.0.1:{port}"
        return
    name = f"loom{os.getpid() % 100000}"
    subnet = _SUBNET.format(os.getpid() % 200 + 20)
    try:
        _ip("netns", "add", name)
    except BenchError as error:
        results.notes.append(f"host `two` is on loopback: {error}")
        yield (), f"tcp://127.0.0.1:{port}"
        return
    try:
        _ip("link", "add", f"{name}h", "type", "veth", "peer", "name", f"{name}i", "netns", name)
        _ip("addr", "add", f"{subnet}1/30", "dev", f"{name}h")
        _ip("link", "set", f"{name}h", "up")
        _ip("-n", name, "addr", "add", f"{subnet}2/30", "dev", f"{name}i")
        _ip("-n", name, "link", "set", f"{name}i", "up")
        results.notes.append("host `two` is in a network namespace, over a veth pair")
        yield ("ip", "netns", "exec", name), f"tcp://{subnet}1:{port}"
    finally:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], check=False, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"ip {' '.join(words)}: {done.stderr.strip()}")
