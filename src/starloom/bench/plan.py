"""`bench plan`: the planner against what was measured, its search speed, and the supernode study.

System `starloom`, or a peer whose figures stand beside the measured ones in the same table. Case: a
table by its CSV's stem; behind a colon a part of it (`:check` rows that no profile was fitted to,
`:26.04` a release, `:memory`, `:ttft`, `:tpot`, `:same_rows` those that the peer answered).
Metrics:

- `mape_pct`, `median_ape_pct`, `bias_pct`: of (ours - measured) / measured; time, so above 0 is too
  slow (of `:memory` bytes; of throughput tables tokens/s, so above 0 is too fast).
- `coverage_pct`: rows answered of the table's rows with a verified figure.
- `profile:NAME`: `fitted_parameters` (a profile's), `rows`, `fit_mape_pct`,
  `leave_one_model_out_mape_pct`, all from a fit made in this run.
- `search`: `strategies_per_s_core` with memory fit, `seconds`, `strategies`; `search:16384` a whole
  search on as many chips. With `--calculon` the peer on the same core.
- `supernode:8` ...: `tokens_per_s_gpu` of Qwen3-235B on 2,048 chips, searched again at every size.
- `nvl72_over_nvl8:MODEL`: `ratio`, ours and (system `measured`) the table's, medians of the pairs.
- `mlperf_retention:CHIP:A-B`: `retention_pct` of tokens/s a chip from A chips to B.

`--data` is a folder of tables. Without it two published tables that ship with the package are
scored. `--quick` leaves out the fits that take minutes and the serving tables' fit.
"""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from starloom.bench.base import BenchError, Options, Results, Told
from starloom.bench.plan_cases import Answer, Row, answers, number, read
from starloom.bench.plan_fit import FAMILIES
from starloom.bench.plan_operators import fit_kernels, operator_tables
from starloom.bench.plan_serving import THROUGHPUT, Scored, fit_serving, silicon
from starloom.bench.plan_training import BRIDGE_MODELS, TABLES, bridge_case
from starloom.plan.base import Job
from starloom.plan.legal import Limits
from starloom.plan.profiles import Profile, profile, profile_of, profiles
from starloom.plan.search import search
from starloom.plan.supernode import cluster_of, study
from starloom.site import catalogue

Array = NDArray[np.float64]
SHIPPED = Path(__file__).parent / "plan_tables"
SLOW = ("h100-bridge", "blackwell-bridge")
SIZES = (8, 16, 32, 64, 128, 256, 512, 1024)


def bench(options: Options, told: Told) -> Results:
    """Score every table of `options.data`, then search and study; `BenchError` for no tables."""
    data = options.data or SHIPPED
    if not data.is_dir():
        raise BenchError(f"{data} is no folder of tables: give the folder with the CSV files")
    results = Results()
    if options.data is None:
        results.notes.append(
            "no --data: two published tables that ship with the package are scored"
        )
    answered = _training(data, results, told)
    _fits(data, options, results, told)
    _operators(data, results, told)
    _serving(data, options, results, told)
    _pairs(data, results)
    _retention(answered.get("mlperf_training_v5_0_llm", []), results)
    _search(options, results, told)
    _supernode(options, results, told)
    if not any(row["metric"] == "coverage_pct" for row in results.rows):
        raise BenchError(f"{data} holds none of the tables; there may be: {', '.join(TABLES)}")
    return results


def _errors(results: Results, system: str, case: str, errors: Array) -> None:
    if not len(errors):
        return
    results.add(system, case, "mape_pct", 100 * float(np.mean(np.abs(errors))), "%")
    results.add(system, case, "median_ape_pct", 100 * float(np.median(np.abs(errors))), "%")
    results.add(system, case, "bias_pct", 100 * float(np.mean(errors)), "%")
    results.add(system, case, "rows", float(len(errors)), "rows")


def shipped_profile(name: str) -> Profile:
    """A profile that ships; for a release without one its chip's next, else the chip's defaults."""
    if name in profiles():
        return profile(name)
    chip = name.split("-")[1]
    alike = [one for one in profiles().values() if one.name.startswith(f"train-{chip}-bridge-")]
    if "bridge" in name and alike:
        return min(alike, key=lambda one: (one.release < name.rsplit("-", 1)[1], one.release))
    whole = {"a100": "a100-sxm-80gb", "h100": "h100-sxm", "mi300x": "mi300x", "tpu": "tpu-v4"}
    return profile_of(whole.get(chip, chip))


def _training(data: Path, results: Results, told: Told) -> dict[str, list[Answer]]:
    answered = {}
    for stem, cases_of in TABLES.items():
        told(stem)
        cases, rows = cases_of(data)
        if not rows:
            continue
        got = answers(cases, shipped_profile)
        answered[stem] = got
        errors = np.array([one.error for one in got])
        _errors(results, "starloom", stem, errors)
        results.add("starloom", stem, "coverage_pct", 100 * len(got) / rows, "%")
        fitted = np.array([one.case.fitted for one in got], dtype=bool)
        if fitted.any() and not fitted.all():
            _errors(results, "starloom", f"{stem}:check", errors[~fitted])
        for release in sorted({one.case.release for one in got} - {""}):
            own = np.array([one.case.release == release for one in got])
            _errors(results, "starloom", f"{stem}:{release}", errors[own])
        sizes = [one for one in got if one.case.allocated_gib]
        if sizes:
            off = [one.allocated_gib / float(one.case.allocated_gib or 1) - 1 for one in sizes]
            _errors(results, "starloom", f"{stem}:memory", np.array(off))
    _peers(data, results)
    results.notes.append(
        "fitted to: all rows of megatron_seqsel_2205_05198 and simumax_b200_v1_2 (memory's"
        " constants too), GPT-3 and Nemotron of nvidia_dgxc_scaling, part of mosaicml_mpt_fsdp and"
        " of megatron_bridge_training; cases with :check leave those rows out, all other tables"
        " are checks"
    )
    return answered


def _peers(data: Path, results: Results) -> None:
    """Peers' errors from the columns that stand beside the measured figures."""
    for stem, system, ours, theirs in (
        ("megatron_seqsel_2205_05198", "calculon", "measured_iter_s", "calculon_iter_s_run_here"),
        ("simumax_b200_v1_2", "simumax", "real_iter_ms", "simumax_iter_ms"),
        ("infersim_validation", "infersim", "actual_tgs", "infersim_run_here_tgs"),
    ):
        rows = [row for row in read(data / f"{stem}.csv") if row.get(theirs) and row.get(ours)]
        if rows:
            off = np.array([number(row, theirs) / number(row, ours) - 1 for row in rows])
            _errors(results, system, stem, off)
    rows = [row for row in read(data / "simumax_b200_v1_2.csv") if row.get("simumax_alloc_GiB")]
    if rows:
        off = np.array(
            [number(row, "simumax_alloc_GiB") / number(row, "real_alloc_GiB") - 1 for row in rows]
        )
        _errors(results, "simumax", "simumax_b200_v1_2:memory", off)


def _fits(data: Path, options: Options, results: Results, told: Told) -> None:
    """Fit again, leave each model out, and print how many parameters that took."""
    for family in FAMILIES:
        if options.quick and family.name in SLOW:
            results.notes.append(f"profile:{family.name}: not fitted again under --quick")
            continue
        told(f"fit {family.name}")
        fit = family.fit(data)
        if fit is None:
            continue
        case = f"profile:{family.name}"
        most = max(len(one.fitted) for one in fit.profiles.values())
        results.add("starloom", case, "fitted_parameters", float(most), "of a profile")
        results.add("starloom", case, "rows", float(len(fit.errors)), "rows")
        results.add("starloom", case, "fit_mape_pct", fit.mape_pct, "%")
        if fit.left_out:
            results.add(
                "starloom", case, "leave_one_model_out_mape_pct", fit.left_out_mape_pct, "%"
            )


def _operators(data: Path, results: Results, told: Told) -> None:
    told("operators")
    fit = fit_kernels(data)
    if fit is None:
        return
    most = max(len(one.fitted) for one in fit.profiles.values())
    results.add("starloom", "profile:kernels", "fitted_parameters", float(most), "of a profile")
    for table in operator_tables(data, fit.profiles):
        _errors(results, "starloom", table.stem, table.errors)
        covered = 100 * len(table.errors) / table.rows
        results.add("starloom", table.stem, "coverage_pct", covered, "%")
        if table.fitted.any():
            _errors(results, "starloom", f"{table.stem}:check", table.errors[~table.fitted])


def _serving_profile(name: str) -> Profile:
    if name in profiles():
        return profile(name)
    chip = name.removeprefix("serve-").rsplit("-", 1)[0]
    return profile_of(chip, serving=True)


def _serving(data: Path, options: Options, results: Results, told: Told) -> None:
    told("serving")
    for scored in silicon(data, _serving_profile):
        case = f"{scored.stem}:{scored.figure}"
        _scored(results, case, scored)
        _errors(results, "starloom", f"{case}:check", scored.errors[~scored.fitted])
    _same_rows(data, results)
    for table in THROUGHPUT:
        one = table(data, _serving_profile)
        if one is not None:
            _scored(results, one.stem, one)
    if options.quick:
        return
    told("fit serving")
    kernels = fit_kernels(data)
    fit = None if kernels is None else fit_serving(data, kernels.profiles)
    if fit is not None:
        most = max(len(one.fitted) for one in fit.profiles.values())
        results.add("starloom", "profile:serving", "fitted_parameters", float(most), "of a profile")
        results.add(
            "starloom",
            "profile:serving",
            "leave_one_model_out_mape_pct",
            fit.left_out_mape_pct,
            "%",
        )


def _scored(results: Results, case: str, scored: Scored) -> None:
    _errors(results, "starloom", case, scored.errors)
    results.add("starloom", case, "coverage_pct", 100 * len(scored.errors) / scored.rows, "%")


def _same_rows(data: Path, results: Results) -> None:
    """AIConfigurator's stored answers, and ours on exactly the rows that it answered."""
    theirs = {row["id"]: row for row in read(data / "aic_0_12_predictions_600.csv")}
    here = {row["id"] for row in read(data / "aic_silicon_sample.csv")}
    if not theirs or not here:
        return
    done = {name: row for name, row in theirs.items() if row.get("aic_tpot_ms") and name in here}
    answered = sum(bool(row.get("aic_tpot_ms")) for row in theirs.values())
    results.add(
        "aiconfigurator", "aic_silicon_sample", "coverage_pct", 100 * answered / len(theirs), "%"
    )
    for figure in ("ttft", "tpot"):
        off = [
            number(row, f"aic_{figure}_ms") / number(row, f"silicon_{figure}_ms") - 1
            for row in done.values()
            if row.get(f"aic_{figure}_ms")
        ]
        case = f"aic_silicon_sample:{figure}:same_rows"
        _errors(results, "aiconfigurator", case, np.array(off))
        for scored in silicon(data, _serving_profile, only=set(done)):
            if scored.figure == figure:
                _errors(results, "starloom", case, scored.errors)


def _pairs(data: Path, results: Results) -> None:
    """NVL72 over NVL8: both sides of a measured pair as the table cuts them, medians by model.

    The pairs' table names neither batch nor sequence: those of the model's other rows are taken.
    Its 8-chip runs, where no domain is left, show the chips' effect alone (`control`).
    """
    rows = read(data / "supernode_pairs_nvl72_vs_nvl8.csv")
    batches: dict[tuple[str, ...], Row] = {}
    for row in read(data / "megatron_bridge_training.csv"):
        batches[row["model"], row["gpus"]] = row
        batches[row["model"], row["gpus"], row["release"], row["system"]] = row
    ours: dict[str, list[float]] = {}
    theirs: dict[str, list[float]] = {}
    for row in rows:
        label = "control" if row["role"].startswith("control") else row["model"]
        name = BRIDGE_MODELS.get(label, label)
        theirs.setdefault(name, []).append(number(row, "ratio"))
        like = batches.get((row["model"], row["gpus"]))
        sides = (
            []
            if like is None
            else [
                bridge_case(_side(row, batches.get(_key(row, side), like), side)) for side in SIDES
            ]
        )
        cases = [case for case in sides if case is not None]
        if len(cases) == len(SIDES):
            few, many = (1 + answers([case], shipped_profile)[0].error for case in cases)
            ours.setdefault(name, []).append(number(row, "ratio") * many / few)
    for name, ratios in theirs.items():
        case = f"nvl72_over_nvl8:{name}"
        results.add("measured", case, "ratio", float(np.median(ratios)), "x")
        if name in ours:
            results.add("starloom", case, "ratio", float(np.median(ours[name])), "x")
            results.add("starloom", case, "pairs", float(len(ours[name])), "pairs")


SIDES = ("", "nvl8_")


def _key(row: Row, side: str) -> tuple[str, str, str, str]:
    system = row["nvl8_system" if side else "nvl72_system"]
    return row["model"], row["gpus"], row["release"], system


def _side(row: Row, like: Row, side: str) -> dict[str, str]:
    """One side of a pair in the form of the training table; `like` has what the pair lacks."""
    cut = {name: row[f"{side}{name}"] for name in ("tp", "pp", "vp", "ep", "mbs")}
    system, rate = (
        ("nvl8_system", "nvl8_tok_s_gpu") if side else ("nvl72_system", "nvl72_tok_s_gpu")
    )
    return {
        **like,
        **cut,
        "release": row["release"],
        "phase": "Pre-Training",
        "precision": row["precision"],
        "cp": like["cp"] if _key(row, side)[3] == like["system"] else "1",
        "fsdp": like["fsdp"] if _key(row, side)[3] == like["system"] else "0",
        "system": row[system],
        "tokens_per_s_per_gpu": row[rate],
    }


def _retention(got: Sequence[Answer], results: Results) -> None:
    """Llama 3.1 405B: what is left of a chip's rate from the smallest run to the largest."""
    runs: dict[str, list[tuple[float, Answer]]] = {}
    for one in got:
        if one.case.model == "llama-3-405b":
            tp, pp, _, dp, cp, *_ = one.case.cuts[0]
            runs.setdefault(one.case.profile, []).append((tp * pp * dp * cp, one))
    for name, many in runs.items():
        many.sort(key=lambda run: run[0])
        (few, small), (most, large) = many[0], many[-1]
        if few == most:
            continue
        batch = large.case.cuts[0][7] / small.case.cuts[0][7] * few / most
        case = f"mlperf_retention:{name.split('-')[1]}:{few:g}-{most:g}"
        measured = small.case.measured_s / large.case.measured_s * batch
        predicted = small.step_s / large.step_s * batch
        results.add("measured", case, "retention_pct", 100 * measured, "%")
        results.add("starloom", case, "retention_pct", 100 * predicted, "%")


def _search(options: Options, results: Results, told: Told) -> None:
    told("search")
    for case, model, node, chips, gbs, seq, limits in (
        ("search", "gpt-3-175b", "dgx-a100", 4096, 4096, 2048, None),
        ("search:moe-2048", "qwen3-235b-a22b", "gb200-nvl72", 2048, 16384, 4096, None),
        (
            "search:16384",
            "deepseek-v3",
            "gb200-nvl72",
            16384,
            16384,
            4096,
            Limits(tp_most=64, schedules=(0, 1, 2, 3)),
        ),
    ):
        if options.quick and case == "search:moe-2048":
            continue
        supernode = catalogue.supernodes()[node]
        cluster = cluster_of(supernode, profile_of(supernode.chip))
        wall, cpu = time.perf_counter(), time.process_time()
        found = search(catalogue.shapes()[model], Job(seq), cluster, chips, gbs, limits)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        results.add("starloom", case, "strategies_per_s_core", found.priced / cpu, "1/s")
        results.add("starloom", case, "seconds", wall, "s")
        results.add("starloom", case, "strategies", float(found.priced), "strategies")
    folder = options.calculon
    if folder is None:
        results.notes.append("peer calculon absent: give its checkout with --calculon")
        return
    told("calculon")
    rate = _calculon(folder)
    results.add("calculon", "search", "strategies_per_s_core", rate, "1/s")


PEER = """
import json, sys, time, logging
sys.path.insert(0, sys.argv[1])
from calculon.llm import Llm
from calculon import System
app = Llm.Application(json.load(open(sys.argv[1] + '/models/gpt3-175B.json')))
base = json.load(open(sys.argv[1] + '/examples/3072_t4_p64_d12_mbs4_full.json'))
syst = System(json.load(open(sys.argv[1] + '/systems/a100_80g.json')))
logging.getLogger('quiet').setLevel(logging.ERROR)
count, done, start = 0, 0, time.process_time()
for t in (1, 2, 4, 8):
    for p in (1, 2, 4, 8, 16, 32):
        for m in (1, 2, 4, 8):
            cut = dict(base, num_procs=4096, tensor_par=t, pipeline_par=p, data_par=4096 // (t * p),
                       batch_size=4096, microbatch_size=m, pipeline_interleaving=1)
            try:
                model = Llm(app, logging.getLogger('quiet'))
                model.compile(syst, Llm.Execution.from_json(cut))
                model.run(syst)
                done += 1
            except (Llm.Error, AssertionError):  # how it says that a cut is impossible
                pass
            count += 1
assert done > 10, 'hardly any strategy was legal'
print(count / (time.process_time() - start))
"""


def _calculon(folder: Path) -> float:
    """Strategies a second of calculon-ai/calculon on one core, its log silenced.

    Runs in the checkout's own `.venv` where it has one: it needs pandas and psutil.
    """
    if not (folder / "calculon").is_dir():
        raise BenchError(f"{folder} is no checkout of calculon-ai/calculon")
    own = folder / ".venv/bin/python"
    python = str(own) if own.exists() else sys.executable
    command = [python, "-c", PEER, str(folder)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, env=env
    )
    if done.returncode:
        raise BenchError(f"calculon failed: {done.stderr.strip().splitlines()[-1:]}")
    return float(done.stdout.strip().splitlines()[-1])


def _supernode(options: Options, results: Results, told: Told) -> None:
    """BF16 as the peer's prediction, on the B200 of one release; all else equal at every size."""
    told("supernode")
    sizes = (8, 64, 128) if options.quick else SIZES
    name = "train-b200-bridge-26.04"
    shape, node = catalogue.shapes()["qwen3-235b-a22b"], catalogue.supernodes()["dgx-b200"]
    for precision, mark in (("bf16", ""), ("mxfp8", ":mxfp8")):
        job = Job(4096, precision)  # type: ignore[arg-type]
        for size in study(shape, job, node, profile(name), 2048, 16384, sizes):
            case = f"supernode:{size.chips}{mark}"
            results.add("starloom", case, "tokens_per_s_gpu", size.tokens_per_s_chip, "tokens/s")
            for part in ("ep_s", "tp_s", "dp_s", "bubble_s"):
                share = 100 * size.parts_s[part] / sum(size.parts_s.values())
                results.add("starloom", case, f"{part.removesuffix('_s')}_share_pct", share, "%")
            results.add("starloom", case, "ep", float(size.cut["ep"]), "chips")
