"""`bench gateway`: what a gateway costs, beside others, on one machine and one bare upstream.

Each system stands in front of the same mock (`bench.upstream`), which answers at once; wrk asks.
Cases:

- `short`, `prompt40k`: whole answers to prompts of a few words, and of 160,000 letters (about
  40,000 tokens) that share most of their length. starloom runs with everything on: 1,000 keys, a
  guard with 100,000 words over requests and answers, prefix-aware scheduling over two workers.
- `stream500`, `stream500_guard`: streams of 500 events, without and with the guard.

Metrics: `rps` at 16 connections, `cpu_us_per_req` of the system's own processes in that load,
`rss_mib` of these after it, and `added_p50_ms`, `added_p99_ms`: at one connection, the time beyond
that of asking the mock itself (`direct`); `failed_pct`, of requests in both loads. Systems take
turns, and each figure is the median over the turns.
"""

import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from starloom.bench import peers, upstream
from starloom.bench.base import BenchError, Options, Results, Told
from starloom.bench.load import UNIQUE, Asked, Load, cpu_s, rss_mib

KEYS = 1000
WORDS = 100_000
CONNECTIONS = 16
LONG_CHARS = 160_000
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of load. `guard`: whether starloom's guard is on."""

    name: str
    prompt_chars: int
    stream: bool
    guard: bool


CASES = (
    Case("short", 80, stream=False, guard=True),
    Case("prompt40k", LONG_CHARS, stream=False, guard=True),
    Case("stream500", 80, stream=True, guard=False),
    Case("stream500_guard", 80, stream=True, guard=True),
)


def bench(options: Options, told: Told) -> Results:
    """Run all cases for all systems that are installed. Raises `BenchError` without wrk."""
    if shutil.which("wrk") is None:
        raise BenchError("wrk is not installed: apt-get install wrk")
    results = Results()
    rounds, seconds = (1, 2.0) if options.quick else (3, 3.0)
    with tempfile.TemporaryDirectory(prefix="starloom-") as name, ExitStack() as stack:
        folder = Path(name)
        keys = [f"sk-bench-{number}" for number in range(KEYS)]
        ports = [peers.free_port() for _ in range(2)]
        stack.enter_context(_upstream(ports))
        rng = random.Random(options.seed)
        words = ["".join(rng.choices(_LETTERS, k=rng.randint(8, 14))) for _ in range(WORDS)]
        (folder / "words.txt").write_text("\n".join(words))
        for case in CASES:
            asked = _asked(case, keys, rng)
            with ExitStack() as running:
                systems: dict[str, peers.System] = {"direct": peers.Direct(ports[0])}
                for make in peers.SYSTEMS:
                    if not peers.installed(make):
                        _note(results, f"{make.NAME} is not installed (make bench-peers)")
                        continue
                    told(f"{case.name}: starting {make.NAME}")
                    system = make(folder, ports, keys, guard=case.guard)
                    systems[make.NAME] = running.enter_context(system)
                _measure(case, systems, asked, folder, rounds, seconds, told, results)
    results.notes += [
        f"wrk with one thread; {rounds} turns of {seconds:g} s a system; upstream, wrk and gateways"
        " share the machine's cores",
        "starloom: 1,000 keys, one process a core; sglang-router: cache_aware, no keys; litellm:"
        " one master key, one worker a core (its own keys need PostgreSQL)",
        "only starloom has a guard; stream500 runs without it for all",
    ]
    return results


def _measure(
    case: Case,
    systems: dict[str, "peers.System"],
    asked: Asked,
    folder: Path,
    rounds: int,
    seconds: float,
    told: Told,
    results: Results,
) -> None:
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    for turn in range(rounds):
        for name, system in systems.items():
            told(f"{case.name}: {name}, turn {turn + 1} of {rounds}")
            load = Load(asked, folder, system.url, system.keys)
            load.run(CONNECTIONS, min(seconds, 1.0))  # warm
            alone = load.run(1, seconds)
            found[name, "p50_ms"].append(alone.p50_ms)
            found[name, "p99_ms"].append(alone.p99_ms)
            before = cpu_s(system.pids())
            many = load.run(CONNECTIONS, seconds)
            used = cpu_s(system.pids()) - before
            bad = 100 * (many.failed + alone.failed) / max(many.requests + alone.requests, 1)
            found[name, "failed"].append(bad)
            found[name, "rps"].append(many.rps)
            found[name, "cpu_us"].append(1e6 * used / max(many.requests, 1))
            found[name, "rss"].append(rss_mib(system.pids()))
    middle = {key: statistics.median(values) for key, values in found.items()}
    for name in systems:
        results.add(name, case.name, "rps", middle[name, "rps"], "requests/s")
        if name == "direct":
            results.add(name, case.name, "p50_ms", middle[name, "p50_ms"], "ms")
            results.add(name, case.name, "p99_ms", middle[name, "p99_ms"], "ms")
            continue
        for metric in ("p50_ms", "p99_ms"):
            added = middle[name, metric] - middle["direct", metric]
            results.add(name, case.name, f"added_{metric}", added, "ms")
        results.add(name, case.name, "cpu_us_per_req", middle[name, "cpu_us"], "us")
        results.add(name, case.name, "rss_mib", middle[name, "rss"], "MiB")
        results.add(name, case.name, "failed_pct", middle[name, "failed"], "% of requests")


def _asked(case: Case, keys: list[str], rng: random.Random) -> Asked:
    """Sixteen prompts that share all but their ends; a number at the end is drawn a request."""
    words = ["".join(rng.choices(_LETTERS, k=rng.randint(2, 7))) for _ in range(2000)]
    shared = ""
    while len(shared) < case.prompt_chars:
        shared += rng.choice(words) + " "
    ends = ["".join(rng.choices(words[0] + _LETTERS, k=40)) for _ in range(16)]
    bodies = []
    for end in ends:
        content = f"{shared[: case.prompt_chars - 50]}{end} {UNIQUE}"
        message = {"role": "user", "content": content}
        bodies.append({"model": upstream.MODEL, "messages": [message], "stream": case.stream})
    return Asked("/v1/chat/completions", bodies, keys)


@contextmanager
def _upstream(ports: list[int]) -> Iterator[None]:
    command = [sys.executable, str(upstream.__file__), *map(str, ports)]
    with subprocess.Popen(command) as process:
        try:
            for port in ports:
                peers.wait_for(port, process)
            yield
        finally:
            process.kill()


def _note(results: Results, text: str) -> None:
    if text not in results.notes:
        results.notes.append(text)
