"""`bench schedule`: how fast a decision is, and how good, in simulated time.

- `1000x10m`: a whole decision (look-up, policy, the chosen worker's new blocks) for a prompt of
  6,250 blocks of 16 tokens, over 1,000 workers that hold 10 M blocks together. `_exact`: workers
  that tell what they hold, and how many such block events a second are taken in. `_tokenised_cold`
  and `_warm`: from text, tokens and keys included, of a prompt never seen and of one that grew.
- `8w_1x` and the like: a trace is replayed over 8 workers at the speed that it was recorded at. All
  policies run on one simulator, with the engine figures of Dynamo's mocker; `dynamo.*` is
  `dynamo.replay` itself, where `.venv-dynamo` is there (`make bench-peers`).
- `8w_4x_1gw`, `_2gw`, `_2gw_untold`: the same where workers do not tell what they hold, over one
  gateway, over two that tell each other what they did, and over two that do not. Requests of one
  tick of the trace's clock are spread over it.
- `8w_16x`: what of an overload is answered within 2 s and 50 ms a token.

`--data` is a trace in Mooncake's form or a folder of them; without it one is drawn.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from math import inf
from pathlib import Path

from starloom.bench.base import BenchError, Options, Results, Told
from starloom.serve.schedule import POLICIES, Sla
from starloom.twin import (
    MockerTimer,
    Replay,
    Request,
    TraceError,
    Workers,
    chats,
    load,
    replay,
    spread,
)

_TTFT_S, _TPOT_S = 2.0, 0.05
_DYNAMO = Path(__file__).parents[3] / ".venv-dynamo" / "bin" / "python"
_FIGURES = {
    "ttft_mean_ms": "ms",
    "ttft_p50_ms": "ms",
    "ttft_p99_ms": "ms",
    "itl_mean_ms": "ms",
    "hit_pct": "% of tokens",
    "success_pct": "% of requests",
}


def bench(options: Options, told: Told) -> Results:
    """Run all cases; raises BenchError when the data cannot be read."""
    results = Results()
    _index(options, told, results)
    for name, trace, path in _traces(options, results):
        _replays(options, told, results, name, trace, path)
    return results


def _index(options: Options, told: Told, results: Results) -> None:
    workers, pairs, case = (
        (100, 500_000, "100x500k") if options.quick else (1000, 10**7, "1000x10m")
    )
    if options.quick:
        results.notes.append(f"--quick: {case} stands in for 1000x10m")
    for exact in (False, True):
        told(f"{case}{', exact' if exact else ''}")
        figures = _index_process(workers, pairs, options.seed, exact=exact)
        name = f"{case}_exact" if exact else case
        results.add("starloom", name, "pairs", figures["pairs"], "worker-block pairs")
        results.add("starloom", name, "index_gib", figures["index_gib"], "GiB")
        for metric in ("decision", "decision_cpu", "lookup"):
            for quantile in ("p50", "p99"):
                metric_name = f"{metric}_us_{quantile}"
                results.add("starloom", name, metric_name, figures[metric_name], "us")
        if exact:
            results.add("starloom", name, "events_per_s", figures["events_per_s"], "blocks/s")
            continue
        results.add("starloom", name, "sent_blocks_per_s", figures["fill_blocks_per_s"], "blocks/s")
        for heat in ("cold", "warm"):
            for quantile in ("p50", "p99"):
                value = figures[f"{heat}_us_{quantile}"]
                case_name = f"{name}_tokenised_{heat}"
                results.add("starloom", case_name, f"decision_us_{quantile}", value, "us")


def _index_process(workers: int, pairs: int, seed: int, *, exact: bool) -> dict[str, float]:
    command = [sys.executable, "-m", "starloom.bench.schedule_index"]
    command += ["--workers", str(workers), "--pairs", str(pairs), "--seed", str(seed)]
    done = subprocess.run(
        command + (["--exact"] if exact else []), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchError(f"the index's process failed: {done.stderr.strip()[-500:]}")
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def _traces(options: Options, results: Results) -> Iterator[tuple[str, list[Request], Path | None]]:
    if options.data is None:
        count = 250 if options.quick else 4000
        results.notes.append(f"trace: {count} drawn requests, seed {options.seed}")
        yield "", chats(options.seed, count, per_s=3.4), None
        return
    paths = sorted(options.data.glob("*.jsonl")) if options.data.is_dir() else [options.data]
    if not paths:
        raise BenchError(f"{options.data}: no *.jsonl there")
    for path in paths:
        try:
            trace = load(path)
        except TraceError as error:
            raise BenchError(str(error)) from error
        if options.quick:
            trace = trace[:250]
            results.notes.append(f"--quick: {path.name} cut to 250 requests")
        yield path.stem if len(paths) > 1 else "", trace, path


def _replays(
    options: Options,
    told: Told,
    results: Results,
    name: str,
    trace: list[Request],
    path: Path | None,
) -> None:
    cases = [(8, 1), (8, 4)] if options.quick else [(8, 1), (8, 4), (16, 1), (16, 4)]
    prefix = f"{name}_" if name else ""
    for count, speedup in cases:
        case = f"{prefix}{count}w_{speedup}x"
        for policy, make in POLICIES.items():
            told(f"{case} {policy}")
            done = replay(trace, Workers(count, MockerTimer()), make, speedup=speedup)
            _add(results, policy, case, vars_of(done))
        for router in ("round_robin", "kv_router"):
            told(f"{case} dynamo.{router}")
            _dynamo(results, case, router, count, speedup, path, options)
    _gateways(told, results, f"{prefix}8w_4x", spread(trace, options.seed))
    case = f"{prefix}8w_16x"
    for policy, make in (
        ("starloom", POLICIES["starloom"]),
        ("product", POLICIES["product"]),
        ("sla", partial(Sla, _TTFT_S, _TPOT_S)),
    ):
        told(f"{case} {policy}")
        done = replay(trace, Workers(8, MockerTimer()), make, speedup=16)
        _add(results, policy, case, vars_of(done))
        in_target, admitted, seconds = _in_target(done)
        results.add(policy, case, "in_target_pct", 100 * in_target / admitted, "% of admitted")
        results.add(policy, case, "goodput_rps", in_target / seconds, "requests/s")


def _gateways(told: Told, results: Results, case: str, trace: list[Request]) -> None:
    for name, gateways, every_s in (("1gw", 1, inf), ("2gw", 2, 0.002), ("2gw_untold", 2, inf)):
        for policy in ("prefix_load", "starloom"):
            told(f"{case}_{name} {policy}")
            done = replay(
                trace,
                Workers(8, MockerTimer()),
                POLICIES[policy],
                speedup=4,
                exact=False,
                gateways=gateways,
                told_every_s=every_s,
            )
            _add(results, policy, f"{case}_{name}", vars_of(done))


def vars_of(done: Replay) -> dict[str, float]:
    """The figures of a replay by name."""
    summary = done.summary()
    return {metric: float(getattr(summary, metric)) for metric in _FIGURES}


def _add(results: Results, system: str, case: str, figures: dict[str, float]) -> None:
    for metric, unit in _FIGURES.items():
        results.add(system, case, metric, figures[metric], unit)


def _in_target(done: Replay) -> tuple[int, int, float]:
    """Requests within both targets, requests admitted, and seconds until the last one ended."""
    served = [record for record in done.records if record.worker is not None]
    good = sum(
        record.first_s - record.at_s <= _TTFT_S
        and record.end_s - record.first_s <= _TPOT_S * (record.answer_tokens - 1)
        for record in served
    )
    return good, len(served), max(record.end_s for record in served)


def _dynamo(
    results: Results,
    case: str,
    router: str,
    workers: int,
    speedup: int,
    path: Path | None,
    options: Options,
) -> None:
    """Dynamo's own replay of the same trace on its own simulator."""
    if path is None or options.quick or not _DYNAMO.exists():
        note = "dynamo.replay was not run: it needs --data, no --quick, and .venv-dynamo"
        if note not in results.notes:
            results.notes.append(note)
        return
    with tempfile.TemporaryDirectory(prefix="starloom-") as folder:
        report = Path(folder) / "report.json"
        command = [str(_DYNAMO), "-m", "dynamo.replay", str(path), "--replay-mode", "offline"]
        command += ["--router-mode", router, "--num-workers", str(workers)]
        command += ["--arrival-speedup-ratio", str(speedup), "--trace-block-size", "512"]
        command += ["--extra-engine-args", '{"block_size":64}', "--report-json", str(report)]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
            env=os.environ | {"DYN_LOG": "error"},
        )
        if done.returncode or not report.exists():
            results.notes.append(f"dynamo.replay failed in {case}: {done.stderr.strip()[-200:]}")
            return
        said = json.loads(report.read_text())
    figures = {
        "ttft_mean_ms": said["mean_ttft_ms"],
        "ttft_p50_ms": said["median_ttft_ms"],
        "ttft_p99_ms": said["p99_ttft_ms"],
        "itl_mean_ms": said["mean_itl_ms"],
        "hit_pct": 100 * said["prefix_cache_reused_ratio"],
        "success_pct": 100 * said["completed_requests"] / said["num_requests"],
    }
    _add(results, f"dynamo.{router}", case, figures)
