"""`bench fabric`: the simulation cores against runs of another simulator, and their speed.

Data: `htsim_runs.csv`, `htsim_fct.csv` and `topologies.csv` of `STARLOOM_DATA/htsim`, or of the
folder that `--data` names: packet runs of ultraethernet/uet-htsim. Each run's flows are replayed,
source by source, and their completion times compared. Without data, synthetic permutations are
timed and nothing is compared.

Systems: `packet` and `flow`, ours; `htsim`, the reference: its figures in the data, and with
`--htsim BINARY` (an `htsim_uec`) its speed in this run.

Cases are the run ids of the reference. Metrics of each:

- `fct_mean_us`, `fct_max_us`: over flows, mean over seeds (16 hash seeds with ECMP, else 3;
  `--quick`: 8 and 1);
- `err_mean_pct`, `err_max_pct`: against the reference's one run. With ECMP the reference is one
  draw of many: compare its mean; `fct_max_sd_us` is the spread of our maxima over draws.

Case `speed`: a permutation of 1,024 hosts, two tiers, 1 MB each, sprayed.

- `packet_hops_per_cpu_s`: packets, answers and trimmed headers that left a queue, by CPU second of
  the event loop. For htsim hops are counted from its own totals of packets and answers, times the
  links of their ways; CPU seconds of the whole process, of which start-up is little;
- `events_per_s`.
"""

import csv
import os
import re
import resource
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from starloom.bench.base import BenchError, Options, Results, Told
from starloom.fabric import FabricError, Flows, Scenario
from starloom.fabric.traffic import read_csv

Table = list[dict[str, str]]
_SMALL_HOSTS = 128
_ECMP_SEEDS = 16
_SEEDS = 3
_HTSIM_LIMIT_S = 300


@dataclass(frozen=True, slots=True)
class Reference:
    """One run of the reference."""

    run_id: str
    scenario: Scenario
    flows: Flows
    mean_us: float
    max_us: float
    cpu_s: float
    hops: float


def bench(options: Options, told: Told) -> Results:
    """All rows; raises `BenchError` where `--data` names no data."""
    results = Results()
    try:
        for reference in references(options, results):
            hosts = reference.scenario.clos.hosts
            if options.quick and (hosts > _SMALL_HOSTS or len(reference.flows) > _SMALL_HOSTS):
                results.notes.append(f"{reference.run_id}: left out by --quick")
                continue
            told(reference.run_id)
            _compare(reference, options, results)
        told("speed")
        _speed(options, results)
        _others(options, results, told)
    except FabricError as error:
        raise BenchError(str(error)) from error
    return results


def references(options: Options, results: Results) -> Iterator[Reference]:
    """What the data hold and we can replay; a note for each run that we cannot."""
    home = Path(os.environ.get("STARLOOM_DATA", "../shared/data")) / "htsim"
    folder = options.data or home
    if not (folder / "htsim_runs.csv").is_file():
        if options.data is not None:
            raise BenchError(f"{folder}: holds no htsim_runs.csv")
        results.notes.append(
            f"no reference runs at {folder} (give --data DIR or set STARLOOM_DATA):"
            " only speed is measured"
        )
        return
    shapes = {row["topology"]: row for row in _table(folder / "topologies.csv")}
    for run in _table(folder / "htsim_runs.csv"):
        try:
            yield _reference(folder, run, shapes)
        except (KeyError, ValueError, ValidationError, FabricError) as error:
            results.notes.append(f"{run['run_id']}: cannot be replayed: {error}")


def _table(path: Path) -> Table:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except OSError as error:
        raise BenchError(f"{path}: cannot be read: {error.strerror}") from error


def _reference(folder: Path, run: dict[str, str], shapes: dict[str, dict[str, str]]) -> Reference:
    size = int(run["payload_bytes_per_flow"])
    flows = read_csv(folder / "htsim_fct.csv", size, run["run_id"])
    scenario = Scenario.model_validate(
        {
            "name": "reference",
            "fabric": _fabric(shapes[run["topology"]]),
            "traffic": [{"kind": "lone", "src": 0, "dst": 1, "bytes": 1}],
            "transport": _transport(run, shapes[run["topology"]]),
            "congestion": _CONGESTION[run["congestion_control"]],
            "balancing": _balancing(run["load_balancing"]),
            "faults": _faults(run["run_parameters"]),
        }
    )
    hops = float(run["data_pkt_link_hops"] or 0)
    mean_us, max_us = float(run["fct_mean_us"]), float(run["fct_max_us"])
    return Reference(
        run["run_id"], scenario, flows, mean_us, max_us, float(run["cpu_s"] or 0), hops
    )


_CONGESTION = {"NSCC": "nscc", "RCCC": "rccc", "PFC only (no CC)": "pfc"}


def _balancing(words: str) -> str:
    for word, balancing in (
        ("ECMP", "ecmp"),
        ("oblivious", "spray"),
        ("bitmap", "bitmap"),
        ("REPS", "reps"),
        ("mixed", "mixed"),
        ("adaptive", "adaptive"),
    ):
        if word in words:
            return balancing
    raise ValueError(f"load balancing {words!r} is not known here")


def _fabric(shape: dict[str, str]) -> dict[str, Any]:
    """A topology of the reference; `hosts_per_pod` and cores matter with three tiers only."""
    fabric: dict[str, Any] = {
        "hosts": int(shape["hosts"]),
        "tiers": int(shape["tiers"]),
        "hosts_per_leaf": int(shape["hosts_per_leaf"]),
        "spines": int(shape["uplinks_per_leaf"]),
        "link_gbps": float(shape["link_gbps"]),
        "link_us": float(shape["link_latency_us"]),
        "switch_us": float(shape["switch_latency_us"]),
    }
    if fabric["tiers"] == 3:
        fabric["pods"] = fabric["hosts"] // int(shape["hosts_per_pod"])
        fabric["cores_per_spine"] = int(shape["cores"]) // fabric["spines"]
    return fabric


def _transport(run: dict[str, str], shape: dict[str, str]) -> dict[str, Any]:
    """Sizes; a lossless queue has no end, but adaptive routing measures it by its stated room."""
    wire, payload = int(run["wire_bytes_per_pkt"]), int(run["payload_bytes_per_pkt"])
    sizes = {"payload_bytes": payload, "header_bytes": wire - payload}
    if "lossless" not in run["transport"]:
        return sizes
    low, high = re.findall(r"-pfc_thresholds (\d+) (\d+)", run["run_parameters"])[0]
    paused = {"full_queue": "pause", "ack_every_bytes": 0}
    flight_us = 4 * int(shape["tiers"]) * float(shape["link_latency_us"])
    room = int(run["queue_bytes"]) / (flight_us * float(shape["link_gbps"]) * 125)
    return {
        **sizes,
        **paused,
        "queue_bdp": room,
        "xon_bytes": int(low) * wire,
        "xoff_bytes": int(high) * wire,
    }


def _faults(parameters: str) -> list[dict[str, Any]]:
    """`-failed k`: all links of k spines at a quarter of their rate."""
    found = re.search(r"-failed (\d+)", parameters)
    count = int(found.group(1)) if found else 0
    return [
        {"kind": "switch", "tier": "spine", "index": spine, "capacity": 0.25}
        for spine in range(count)
    ]


def _compare(reference: Reference, options: Options, results: Results) -> None:
    from starloom.fabric.packet import PacketCore

    scenario, case = reference.scenario, reference.run_id
    ecmp = scenario.balancing == "ecmp" and len(reference.flows) > 1
    means, highs = [], []
    seeds = (_ECMP_SEEDS if ecmp else _SEEDS) // (2 if options.quick else 1)
    for seed in range(seeds):
        found = PacketCore().run_flows(scenario, reference.flows, options.seed + seed)
        if found.finished < len(reference.flows):
            results.notes.append(f"{case}: {found.finished} of {len(reference.flows)} flows ended")
            return
        means.append(float(found.fct_us.mean()))
        highs.append(found.makespan_us)
    mean_us, max_us = float(np.mean(means)), float(np.mean(highs))
    for system, values in {
        "packet": (mean_us, max_us),
        "htsim": (reference.mean_us, reference.max_us),
    }.items():
        results.add(system, case, "fct_mean_us", values[0], "us")
        results.add(system, case, "fct_max_us", values[1], "us")
    results.add("packet", case, "err_mean_pct", 100 * (mean_us / reference.mean_us - 1), "%")
    results.add("packet", case, "err_max_pct", 100 * (max_us / reference.max_us - 1), "%")
    if ecmp:
        results.add("packet", case, "fct_max_sd_us", float(np.std(highs)), "us")


def _speed(options: Options, results: Results) -> None:
    from starloom.fabric.packet import PacketCore

    fabric = {"hosts": 1024, "hosts_per_leaf": 32, "spines": 32}
    traffic = [{"kind": "permutation", "bytes": 1_001_070}]
    scenario = Scenario.model_validate({"name": "speed", "fabric": fabric, "traffic": traffic})
    flows = scenario.flows(options.seed)
    runs = [PacketCore().run_flows(scenario, flows, options.seed) for _ in range(3)]
    best = min(runs, key=lambda run: run.cpu_s)
    results.add("packet", "speed", "packet_hops_per_cpu_s", best.hops / best.cpu_s, "1/s")
    results.add("packet", "speed", "events_per_s", best.events / best.cpu_s, "1/s")
    if options.htsim is None:
        results.notes.append("speed of htsim: not measured in this run (give --htsim BINARY)")
        return
    hops, cpu_s = _htsim(options.htsim, scenario, flows)
    results.add("htsim", "speed", "packet_hops_per_cpu_s", hops / cpu_s, "1/s")
    ratio = best.hops / best.cpu_s / (hops / cpu_s)
    results.add("packet", "speed", "times_htsim", ratio, "1")


def _htsim(binary: Path, scenario: Scenario, flows: Flows) -> tuple[float, float]:
    """The same permutation in the reference: packet hops and CPU seconds of its process."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fabric = scenario.clos.fabric
        (folder / "fabric.topo").write_text(
            f"Nodes {fabric.hosts}\nTiers 2\nPodsize {fabric.hosts}\nTier 0\n"
            f"Downlink_speed_Gbps {fabric.link_gbps:.0f}\nRadix_Down {fabric.hosts_per_leaf}\n"
            f"Radix_Up {fabric.spines}\nDownlink_Latency_ns {1000 * fabric.link_us:.0f}\nTier 1\n"
            f"Downlink_speed_Gbps {fabric.link_gbps:.0f}\nRadix_Down {fabric.leaves}\n"
            f"Downlink_Latency_ns {1000 * fabric.link_us:.0f}\n"
        )
        ends = zip(flows.src, flows.dst, flows.payload_bytes, strict=True)
        lines = [f"{a}->{b} id {at + 1} start 0 size {n}" for at, (a, b, n) in enumerate(ends)]
        head = [f"Nodes {fabric.hosts}", f"Connections {len(flows)}"]
        (folder / "traffic.cm").write_text("\n".join([*head, *lines]) + "\n")
        speed = f"{1000 * fabric.link_gbps:.0f}"
        command = [str(binary.resolve()), "-topo", "fabric.topo", "-tm", "traffic.cm"]
        command += ["-end", "20000", "-o", "log.dat", "-linkspeed", speed, "-sender_cc_only"]
        command += ["-paths", str(scenario.entropies), "-load_balancing_algo", "oblivious"]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                capture_output=True,
                text=True,
                check=True,
                timeout=_HTSIM_LIMIT_S,
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise BenchError(f"--htsim {binary}: {error}") from error
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    totals = dict(re.findall(r"(\w+): (\d+)", "New:" + done.stdout.rpartition("New:")[2]))
    packets = sum(int(totals.get(what, 0)) for what in ("New", "Rtx", "ACKs", "NACKs", "Pulls"))
    if packets == 0:
        raise BenchError(f"--htsim {binary}: its output has no totals")
    return packets * float(scenario.clos.path_links(flows.src, flows.dst).mean()), cpu_s


def _others(options: Options, results: Results, told: Told) -> None:
    """Rows of the flow core and the collectives."""
    if find_spec("starloom.bench.fabric_flow") is None:
        return
    told("flow core and collectives")
    import_module("starloom.bench.fabric_flow").rows(options, results)
