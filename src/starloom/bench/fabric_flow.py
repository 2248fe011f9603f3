"""Rows of `bench fabric` that need no packets: the flow core, the bridge, and the collectives.

- system `flow`, cases `flows65k` (65,280 flows of 256 hosts, ECMP: one max-min solve;
`numpy_rounds` is
  textbook filling in NumPy beside it), `alltoall256` (the same to its end, ECMP and sprayed),
  `gpus1m` (1,048,576 hosts, a permutation: one ECMP solve, and a sprayed run from scenario to
  times; in a process of its own): `solve_s`, `run_s`, `rss_gib`.
- system `flow`, case a reference run's id: `fct_mean_us`, `fct_max_us`, `err_mean_pct`,
`err_max_pct`,
  ECMP over 16 draws. System `flow_bridged`: the same after the bridge, which was fitted on our
  packet core's runs and saw neither these runs nor `unseen_*`.
- system `flow`, case `ecmp_HOSTS`: `line_rate_share` of ECMP permutations, mean over draws.
- system `collectives`, cases `vs_flow_*` and `vs_packet_*`: `err_pct` of the closed form against
  the same steps run as flows on a core.
- system `collectives`, case a system's name and size: `err_pct`; `speed`: `entries_per_s`. System
  `collectives_unseen`: the error of a fit that did not see that system (not with `--quick`).
"""

import csv
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from starloom.bench.base import BenchError, Options, Results, Told
from starloom.bench.fabric import references
from starloom.fabric import Clos, FabricError, Flows, Result, Scenario
from starloom.fabric.base import PS_PER_US
from starloom.fabric.clos import Floats, Ints
from starloom.fabric.collectives import (
    Collectives,
    Level,
    agreement,
    from_csv,
    leave_one_out,
    shipped,
)
from starloom.fabric.collectives.steps import run_us, steps
from starloom.fabric.flow import FlowCore
from starloom.fabric.flow.bridge import Bridge, Sample, packet_samples
from starloom.fabric.flow.maxmin import fill
from starloom.fabric.flow.routes import Routes, drawn
from starloom.fabric.packet import PacketCore
from starloom.site import Fabric
from starloom.site.catalogue import link_generations
from starloom.site.links import Hops

DRAWS = 16
TWO_TIERS = {
    128: {"hosts": 128, "hosts_per_leaf": 16, "spines": 16},
    256: {"hosts": 256, "hosts_per_leaf": 16, "spines": 16},
    512: {"hosts": 512, "hosts_per_leaf": 32, "spines": 32},
    1024: {"hosts": 1024, "hosts_per_leaf": 32, "spines": 32},
    16384: {"hosts": 16384, "hosts_per_leaf": 64, "spines": 64},
    1 << 20: {"hosts": 1 << 20, "hosts_per_leaf": 1024, "spines": 1024},
}
THREE_TIERS = {
    "hosts": 128,
    "tiers": 3,
    "hosts_per_leaf": 4,
    "spines": 4,
    "pods": 8,
    "cores_per_spine": 4,
}
MIB = 1 << 20
SEEN = [
    (TWO_TIERS[128], MIB // 4),
    (TWO_TIERS[128], MIB),
    (TWO_TIERS[128], 4 * MIB),
    (THREE_TIERS, MIB),
    (THREE_TIERS, 4 * MIB),
    (TWO_TIERS[512], MIB),
    (TWO_TIERS[1024], MIB // 2),
]
UNSEEN = [(TWO_TIERS[128], 2 * MIB), (THREE_TIERS, 2 * MIB), (TWO_TIERS[1024], MIB)]
BALANCINGS = ("ecmp", "spray", "reps", "bitmap", "mixed", "adaptive")
CASES = {"flows65k": 256, "alltoall256": 256, "gpus1m": 1 << 20}


def rows(options: Options, results: Results, told: Told = lambda _: None) -> None:
    """Add all rows. Raises `BenchError` where the data cannot be read."""
    try:
        for case in ("flows65k", "alltoall256", "gpus1m"):
            told(f"flow {case}")
            _solver(case, results)
        told("flow ecmp")
        _ecmp_shares(options, results)
        bridge = _bridge(options, results, told)
        told("flow against references")
        _references(options, results, bridge)
        told("collectives")
        _collectives(options, results)
        _against_cores(options, results)
    except FabricError as error:
        raise BenchError(str(error)) from error


def _solver(case: str, results: Results) -> None:
    """Each in a process of its own, so that its memory is its own."""
    command = [sys.executable, "-m", "starloom.bench.fabric_flow", case]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"{case}: {done.stderr.strip()[-400:]}")
    for system, metric, value, unit in json.loads(done.stdout):
        results.add(system, case, metric, value, unit)


def _permutation(clos: Clos, rng: np.random.Generator) -> Flows:
    order = rng.permutation(clos.hosts)
    return Flows.of(order, np.roll(order, 1), 1)


def _solve(routes: Routes) -> tuple[Floats, float]:
    """Max-min rates along routes, and the seconds of CPU that they took."""
    count = len(routes.starts) - 1
    flows, rate = np.arange(count), np.empty(count)
    weight, cap = np.ones(count), np.full(count, np.inf)
    none = np.empty(0, dtype=np.int64)
    began = time.process_time()
    fill(routes.starts, routes.links, weight, cap, none, routes.capacity_gbps, flows, count, rate)
    return rate, time.process_time() - began


def _rounds(routes: Routes) -> tuple[Floats, float]:
    """The same by textbook rounds in NumPy: the baseline."""
    began = time.process_time()
    owner = np.repeat(np.arange(len(routes.starts) - 1), np.diff(routes.starts))
    links, left = routes.links, routes.capacity_gbps.copy()
    rate = np.full(len(routes.starts) - 1, -1.0)
    level = 0.0
    while len(owner):
        load = np.bincount(links, minlength=len(left)).astype(np.float64)
        share = np.full(len(left), np.inf)
        np.divide(left, load, out=share, where=load > 0)
        step = share.min()
        level += step
        left -= step * load
        full = share <= step * (1 + 1e-12)
        ended = np.zeros(len(rate), dtype=bool)
        ended[owner[full[links]]] = True
        rate[ended] = level
        keep = ~ended[owner]
        owner, links = owner[keep], links[keep]
    return rate, time.process_time() - began


def measure(case: str) -> list[tuple[str, str, float, str]]:
    """One solver case in this process: rows of (system, metric, value, unit)."""
    shape = TWO_TIERS[CASES[case]]
    clos = Clos(Fabric.model_validate(shape))
    _solve(_warm())
    found: list[tuple[str, str, float, str]] = []
    if case == "flows65k":
        flows = _scenario("a2a", shape, {"kind": "all_to_all", "bytes": 1}, "ecmp").flows(0)
        routes = drawn(clos, flows, np.random.default_rng(0), np.ones(clos.links), _NONE)
        (rates, seconds), (slow, slow_s) = _solve(routes), _rounds(routes)
        if not np.allclose(rates, slow, rtol=1e-6):
            raise BenchError("flows65k: the solver and textbook rounds disagree")
        found += [("flow", "solve_s", seconds, "s"), ("numpy_rounds", "solve_s", slow_s, "s")]
    elif case == "alltoall256":
        _run_s(TWO_TIERS[128], {"kind": "permutation", "bytes": 4086}, "ecmp")
        traffic = {"kind": "all_to_all", "bytes": MIB}
        found.append(("flow", "solve_s", _run_s(shape, traffic, "ecmp"), "s"))
        found.append(("flow", "sprayed_solve_s", _run_s(shape, traffic, "spray"), "s"))
    else:
        _run_s(TWO_TIERS[128], {"kind": "permutation", "bytes": 4086}, "spray")
        rng = np.random.default_rng(0)
        routes = drawn(clos, _permutation(clos, rng), rng, np.ones(clos.links), _NONE)
        found.append(("flow", "solve_s", _solve(routes)[1], "s"))
        del routes
        run_s = _run_s(shape, {"kind": "permutation", "bytes": MIB}, "spray")
        found.append(("flow", "run_s", run_s, "s"))
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return [*found, ("flow", "rss_gib", peak_gib, "GiB")]


_NONE: Ints = np.empty(0, dtype=np.int64)


def _warm() -> Routes:
    """Anything small, so that compilation is not measured."""
    clos = Clos(Fabric.model_validate(TWO_TIERS[128]))
    rng = np.random.default_rng(0)
    return drawn(clos, _permutation(clos, rng), rng, np.ones(clos.links), _NONE)


def _run_s(shape: dict[str, int], traffic: dict[str, Any], balancing: str) -> float:
    """CPU seconds from a scenario to the times of its flows."""
    scenario = _scenario("timed", shape, traffic, balancing)
    began = time.process_time()
    FlowCore().run(scenario, 0)
    return time.process_time() - began


def _scenario(
    name: str, shape: dict[str, int], traffic: dict[str, Any], balancing: str, **more: Any
) -> Scenario:
    data = {"name": name, "fabric": shape, "traffic": [traffic], "balancing": balancing}
    return Scenario.model_validate({**data, **more})


def _ecmp_shares(options: Options, results: Results) -> None:
    for hosts, draws in ((128, 64), (1024, 16), (16384, 2 if options.quick else 8)):
        clos = Clos(Fabric.model_validate(TWO_TIERS[hosts]))
        means = []
        for seed in range(options.seed, options.seed + draws):
            rng = np.random.default_rng(seed)
            routes = drawn(clos, _permutation(clos, rng), rng, np.ones(clos.links), _NONE)
            means.append(_solve(routes)[0].mean() / clos.fabric.link_gbps)
        results.add("flow", f"ecmp_{hosts}", "line_rate_share", float(np.mean(means)), "of 1")
    results.notes.append(
        "published marks of ECMP: 0.600 (128 hosts), 0.527 (1,024), 0.501 (16,384)"
    )


def _bridge(options: Options, results: Results, told: Told) -> Bridge:
    """Fitted on packet runs made now; judged on others of other sizes and seeds."""
    balancings = BALANCINGS[:2] if options.quick else BALANCINGS
    seen, unseen = (SEEN[:5], UNSEEN[:1]) if options.quick else (SEEN, UNSEEN)
    run = PacketCore().run

    def samples(cases: list[tuple[dict[str, int], int]], name: str, seed: int) -> Iterator[Sample]:
        for balancing in balancings:
            for at, (shape, size) in enumerate(cases):
                told(f"bridge {name} {balancing} {at}")
                case = f"{name}_{balancing}_{shape['hosts']}x{shape.get('tiers', 2)}t_{size >> 10}k"
                traffic = {"kind": "permutation", "bytes": size}
                scenario = _scenario(case, shape, traffic, balancing, until_us=100_000)
                yield from packet_samples([scenario], run, seed + at)

    bridge = Bridge.fit(list(samples(seen, "seen", options.seed)))
    for sample in samples(unseen, "unseen", options.seed + 100):
        _errors(results, "flow", sample.name, sample, sample.fluid_us)
        _errors(results, "flow_bridged", sample.name, sample, bridge.times_us(sample))
    results.notes.append(
        f"bridge: fitted on {len(seen)} packet runs for each of {', '.join(balancings)}"
    )
    return bridge


def _errors(results: Results, system: str, case: str, sample: Sample, times_us: Floats) -> None:
    mean, _, largest = sample.error(times_us)
    results.add(system, case, "fct_mean_us", float(times_us.mean()), "us")
    results.add(system, case, "fct_max_us", float(times_us.max()), "us")
    results.add(system, case, "err_mean_pct", mean, "%")
    results.add(system, case, "err_max_pct", largest, "%")


def _references(options: Options, results: Results, bridge: Bridge) -> None:
    """Each reference run's flows in the flow core; permutations after the bridge too."""
    found = list(references(options, Results()))  # what cannot be replayed is noted by its caller
    times: dict[str, list[float]] = {}
    for row in _times(options) if found else []:
        times.setdefault(row["run_id"], []).append(float(row["fct_us"]))
    for one in found:
        scenario, case = one.scenario, one.run_id
        if options.quick and scenario.clos.hosts > 128:
            continue
        draws = (
            (4 if options.quick else DRAWS)
            if scenario.balancing == "ecmp" and len(one.flows) > 1
            else 1
        )
        seeds = range(options.seed, options.seed + draws)
        runs = [FlowCore().run_flows(scenario, one.flows, seed) for seed in seeds]
        ours = np.mean([np.sort(run.fct_ps) for run in runs], axis=0) / PS_PER_US
        for metric, value, mark in (
            ("mean", ours.mean(), one.mean_us),
            ("max", ours.max(), one.max_us),
        ):
            results.add("flow", case, f"fct_{metric}_us", float(value), "us")
            results.add("flow", case, f"err_{metric}_pct", float(100 * (value / mark - 1)), "%")
        theirs = np.array(times.get(case, []))
        key = scenario.balancing, scenario.congestion
        if key in bridge.found and "perm" in case and len(theirs) == len(one.flows):
            sample = Sample.of(scenario, one.flows, theirs, options.seed)
            _errors(results, "flow_bridged", case, sample, bridge.times_us(sample))


def _times(options: Options) -> list[dict[str, str]]:
    path = folder(options) / "htsim_fct.csv"
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise BenchError(f"{path}: cannot be read: {error.strerror}") from error


def folder(options: Options) -> Path:
    """Where reference runs are: `--data`, or `htsim` under STARLOOM_DATA."""
    return options.data or Path(os.environ.get("STARLOOM_DATA", "../shared/data")) / "htsim"


def _collectives(options: Options, results: Results) -> None:
    known = link_generations()
    measured = shipped()
    given = folder(options) / "nccl_reference.csv"
    if options.data is not None and given.is_file():
        measured, left_out = from_csv(given)
        results.notes += [f"collectives: left out {why}" for why in left_out]
    for row, error in agreement(measured, known):
        results.add("collectives", _case(row.system, row.chips, row), "err_pct", error, "%")
    if not options.quick:
        for told in leave_one_out(shipped(), known).values():
            for row, error in told:
                case = _case(row.system, row.chips, row)
                results.add("collectives_unseen", case, "err_pct", error, "%")
    costs = Collectives.of(
        Fabric.model_validate(
            {**TWO_TIERS[16384], "scale_up": {"generation": "nvlink4", "chips": 8}}
        )
    )
    rng = np.random.default_rng(options.seed)
    count = 200_000 if options.quick else 1_000_000
    sizes, groups = rng.integers(1, 1 << 30, count), 2 ** rng.integers(1, 12, count)
    began = time.process_time()
    costs.collective_time("all_reduce", sizes, groups)
    per_s = count / (time.process_time() - began)
    results.add("collectives", "speed", "entries_per_s", per_s, "1/s")


def _against_cores(options: Options, results: Results) -> None:
    """Steps of collectives as flows on both cores, beside the closed form of the same fabric.

    The closed form gets what the transport states, not what a core measured: the payload's share of
    the wire, and a step of an unloaded round trip.
    """
    shape = TWO_TIERS[128]
    plain = _scenario("steps", shape, {"kind": "lone", "src": 0, "dst": 1, "bytes": 1}, "spray")
    clos, transport = plain.clos, plain.transport
    step_us = clos.base_rtt_ps(transport.wire_bytes, transport.ack_bytes) / PS_PER_US
    hop = {"ll_us": step_us, "ll128_us": step_us, "simple_us": step_us}
    share = transport.payload_bytes / transport.wire_bytes
    port = link_generations()["ib400"].model_copy(
        update={
            "effective_gb_per_s": clos.fabric.link_gbps / 8 * share,
            "ring_hop": Hops.model_validate(hop),
            "tree_hop": Hops.model_validate(hop),
            "all_to_all_efficiency": 1.0,
            "all_to_all_us": step_us,
        }
    )
    costs = Collectives((Level.of("scale_out", clos.hosts, port),))
    cores: dict[str, Callable[[Scenario, Flows, int], Result]] = {"flow": FlowCore().run_flows}
    if not options.quick:
        cores["packet"] = PacketCore().run_flows
    cases = [
        ("all_reduce", "ring", "hierarchical", 64, 256 * MIB),
        ("all_reduce", "halving_doubling", "halving_doubling", 64, 64 * MIB),
        ("all_to_all", "ring", None, 16, 16 * MIB),
    ]
    for name, run in cores.items():
        for kind, how, form, group, size in cases:
            # Members stand a leaf apart, so that every byte crosses the spines.
            hosts = np.arange(group) % 8 * 16 + np.arange(group) // 8
            found = steps(kind, hosts, size, how)
            theirs = run_us(found, partial(_on, run, plain, options.seed))
            ours = 1e6 * float(costs.collective_time(kind, size, group, 0, algorithm=form))
            case = f"vs_{name}_{kind}_{how}_{group}x{size // MIB}MiB"
            results.add("collectives", case, "err_pct", 100 * (ours / theirs - 1), "%")


def _on(
    run: Callable[[Scenario, Flows, int], Result], scenario: Scenario, seed: int, flows: Flows
) -> Result:
    return run(scenario, flows, seed)


def _case(system: str, chips: int, row: Any) -> str:
    how = f" {row.algorithm}" if row.algorithm else ""
    return f"{system} n={chips} {row.kind}{how} {row.size_bytes / MIB:.0f}MiB"


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(sys.argv[1])))
