"""`bench across`: what distance takes from a training step, and the published trials beside it.

System `starloom`. Case `fibre:km:sites:strategy:mode` (mode of latency; simulations have none, and
their figure stands beside each): 2 and 3 sites of the run of ZTE Technologies, April 2026; fibre
`smf-5.0` and `hcf-3.33` have the delays printed there, `smf` and `hcf` the engine's.

- `loss_pct`: by latency on T_DP,cal, formula. `simulated_loss_pct`: the same by simulation.

Cases `real:...` train the shipped tiny model over two network namespaces (`across_real.py`), where
the machine can make them; not with --quick.

Case `trial:ID:strategy:mode`, system `starloom`: `ours_pct`, `stated_pct`, `holds` (1 or 0).
`--data` is a folder with `cross_dc_training.csv`, or that file; without it the three figures of the
same source are checked. Misses stay in.
"""

from pathlib import Path

from starloom.bench.across_real import bench_real
from starloom.bench.base import BenchError, Options, Results, Told
from starloom.plan.across import SHIPPED, Across, Trial, check, points, read
from starloom.plan.errors import PlanError

_FILE = "cross_dc_training.csv"
_RUN = {
    "name": "article",
    "params_b": 70,
    "batch": 32,
    "sequence": 4096,
    "global_batch": 2048,
    "pipeline": 8,
    "tensor": 8,
    "data": 16,
    "chunks": 5,
    "tflops": 122.96,
    "line_tbps": 12.8,
}
_SITES = {2: (512, 512), 3: (512, 384, 128)}
_FIBRES: dict[str, dict[str, object]] = {
    "smf-5.0": {"us_per_km": 5.0},
    "hcf-3.33": {"us_per_km": 3.33},
    "smf": {"fibre": "smf"},
    "hcf": {"fibre": "hcf"},
}
_KM = (100.0, 300.0, 600.0, 1000.0)


def article_run(sites: int = 2, fibre: str = "smf-5.0", km: tuple[float, ...] = _KM) -> Across:
    """The source's run; of three sites only the first leg has a length."""
    delay = _FIBRES[fibre]
    legs: list[dict[str, object]] = [{"km": 600, **delay}]
    if sites == 3:
        legs += [{"km": 0, "varied": False, **delay}] * 2
    strategies = ("dp-ring", "dp-hierarchical", "pp", "local")
    return Across.model_validate(
        {
            **_RUN,
            "sites": [{"name": f"site-{n}", "gpus": g} for n, g in enumerate(_SITES[sites])],
            "legs": legs,
            "strategies": strategies,
            "distances_km": km,
        }
    )


def bench(options: Options, told: Told) -> Results:
    """Run all cases; raises `BenchError` when the trials cannot be read."""
    results = Results()
    km = _KM[1:3] if options.quick else _KM
    for fibre in _FIBRES:
        for sites in _SITES:
            told(f"{fibre}, {sites} sites")
            for point in points(article_run(sites, fibre, km)):
                case = f"{fibre}:{point.km:g}:{sites}:{point.strategy}:{point.mode}"
                results.add("starloom", case, "loss_pct", point.loss.loss_pct, "%")
                if point.simulated is not None:
                    simulated = point.simulated.loss_pct
                    results.add("starloom", case, "simulated_loss_pct", simulated, "%")
    if not options.quick:
        bench_real(results, told)
    trials, notes = _trials(options.data)
    results.notes += notes
    try:
        checked = list(check(article_run(), trials))
    except PlanError as error:
        raise BenchError(str(error)) from error
    for item in checked:
        case = f"trial:{item.trial.id}:{item.strategy}:{item.mode}"
        results.add("starloom", case, "ours_pct", item.ours_pct, "%")
        results.add("published", case, "stated_pct", item.trial.loss_pct, "%")
        results.add("starloom", case, "holds", float(item.holds), "")
    missed = [item for item in checked if not item.holds]
    results.notes += [
        f"miss: {item.trial.id} states {item.trial.stated} at {item.trial.km:g} km,"
        f" {item.strategy} ({item.mode}) gives {item.ours_pct:.3f} %"
        for item in missed
    ]
    return results


def _trials(data: Path | None) -> tuple[list[Trial], list[str]]:
    if data is None:
        return list(SHIPPED), ["no --data: only the source's own figures are checked"]
    path = data / _FILE if data.is_dir() else data
    try:
        trials, left_out = read(path)
    except PlanError as error:
        raise BenchError(str(error)) from error
    return trials, [f"trial left out, {line}" for line in left_out]
