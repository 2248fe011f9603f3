"""What is shown of a run over several sites: tables for the console, a page with a picture."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from starloom.optics import Block, plots
from starloom.plan.across.article import arithmetic
from starloom.plan.across.base import Across
from starloom.plan.across.formula import (
    MODES,
    balance_loss_pct,
    balanced,
    crossing_km,
    modes_of,
)
from starloom.plan.across.table import Point
from starloom.plan.across.trials import Checked, Trial
from starloom.plan.errors import BadPlan

_COLOURS = {"dp-ring": "#4477aa", "pp": "#228833", "dp-hierarchical": "#ee6677"}
_STYLES = {"dependency": "-", "barrier": "--", "calibrated": ":"}


def headline(run: Across) -> list[str]:
    """The run in two sentences."""
    sums = arithmetic(run)
    gpus = " + ".join(str(site.gpus) for site in run.sites)
    return [
        f"{run.params_b:g}B weights on {gpus} GPUs, p {run.pipeline}, t {run.tensor},"
        f" d {run.data}: T_batch {sums.t_batch_s:.3f} s, T_DP,cal {sums.t_cal_s:.2f} s,"
        f" {sums.tgs:.1f} tokens/s and GPU.",
        f"Line {run.line_tbps:g} Tb/s a direction, {sums.waves_800g} waves of 800G,"
        f" 1:{sums.convergence:g} against the first site's ports.",
    ]


def flags(run: Across) -> list[str]:
    """What a reader must know."""
    found = []
    if any(leg.faster_than_light for leg in run.legs):
        found.append(
            "a leg is faster than light in vacuum (3.33564 us/km): as printed, not as built"
        )
    if "dp-ring" in run.strategies:
        found.append(
            "`calibrated` fits one field figure and states no mechanism; `dependency` and"
            " `barrier` follow from the algorithm, and simulations are tuned to neither"
        )
    if "local" in run.strategies:
        found.append(
            "`local` counts time only: fewer exchanges may need more steps to learn as much"
        )
    return found


def blocks(
    run: Across, points: Sequence[Point], checked: Sequence[Checked] = (), *, pictures: bool
) -> list[Block]:
    """All tables; with `pictures` the loss over distance, which needs matplotlib."""
    found = [_arithmetic(run), _losses(points)]
    if pictures and len({point.km for point in points}) > 1:
        trials = list({item.trial.id: item.trial for item in checked}.values())
        found.append(Block("Loss over distance", svg=picture(points, trials)))
    if "dp-ring" in run.strategies and any(leg.varied for leg in run.legs):
        found.append(_crossings(run))
    if len(set(run.speeds)) > 1:
        found.append(_uneven(run))
    if checked:
        found.append(_trials(checked))
    return found


def as_json(run: Across, points: Sequence[Point], checked: Sequence[Checked] = ()) -> Any:
    """The same for programs."""
    return {
        "run": run.name,
        "arithmetic": asdict(arithmetic(run)),
        "points": [
            {
                "km": point.km,
                "gpu_speed": point.gpu_speed,
                "strategy": point.strategy,
                "mode": point.mode,
                "latency_s": point.loss.latency_s,
                "transfer_s": point.loss.transfer_s,
                "loss_pct": point.loss.loss_pct,
                "on_batch_pct": point.loss.on_batch_pct,
                "with_transfer_pct": point.loss.with_transfer_pct,
                "simulated_loss_pct": point.simulated and point.simulated.loss_pct,
                "simulated_whole_loss_pct": point.simulated and point.simulated.whole_loss_pct,
            }
            for point in points
        ],
        "trials": [
            {
                "trial": item.trial.id,
                "km": item.trial.km,
                "stated": item.trial.stated,
                "strategy": item.strategy,
                "mode": item.mode,
                "ours_pct": item.ours_pct,
                "holds": item.holds,
            }
            for item in checked
        ],
        "flags": flags(run),
    }


def picture(points: Sequence[Point], trials: Sequence[Trial]) -> str:
    """Loss over distance: formula by mode, simulation as crosses, published figures as dots."""
    made = plots.figure(height_in=4.0)
    axes = made.subplots()
    slowest = min(point.gpu_speed for point in points)
    shown = [point for point in points if point.gpu_speed == slowest]
    for strategy in dict.fromkeys(point.strategy for point in shown):
        colour = _COLOURS.get(strategy, "#888888")
        for mode in modes_of(strategy):
            line = [p for p in shown if (p.strategy, p.mode) == (strategy, mode)]
            axes.plot(
                [p.km for p in line],
                [p.loss.loss_pct for p in line],
                _STYLES[mode],
                color=colour,
                label=f"{strategy}, {mode}",
            )
        crosses = [p for p in line if p.simulated is not None]
        axes.plot(
            [p.km for p in crosses],
            [p.simulated.loss_pct for p in crosses if p.simulated is not None],
            "x",
            color=colour,
            label=f"{strategy}, simulated",
        )
    widest = 1.1 * max(point.km for point in shown)
    near = [trial for trial in trials if trial.km <= widest and trial.loss_pct > 0]
    for relation, marker in (("=", "o"), ("~", "o"), ("<", "v"), ("<=", "v")):
        some = [t for t in near if t.relation == relation]
        if some:
            word = "published" if marker == "o" else "published bound"
            axes.plot(
                [t.km for t in some],
                [t.loss_pct for t in some],
                marker,
                color="black",
                label=f"{word} ({relation})",
            )
    axes.set(xlabel="km", ylabel="loss of a step, %", yscale="log")
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return plots.svg(made)


def _arithmetic(run: Across) -> Block:
    sums = arithmetic(run)
    low, high = sums.gpu_gbytes_per_s
    line_low, line_high = sums.line_tbps
    rows: list[Sequence[object]] = [
        ("T_batch = 6 psi b s / (p t P)", f"{sums.t_batch_s:.3f} s"),
        (f"T_DP,cal, {sums.batches} batches", f"{sums.t_cal_s:.2f} s"),
        ("D_DP of one GPU", f"{sums.d_dp_bytes / 1e9:.3f} GB"),
        ("bandwidth of one GPU for 5 % and 1 %", f"{low:.2f} to {high:.2f} GB/s"),
        (f"line for {sums.flows} flows (2 p t)", f"{line_low:.2f} to {line_high:.2f} Tb/s"),
        ("D_DP over one flow's share of the line", f"{sums.flow_s:.3f} s"),
        ("tokens/s and GPU, b s / T_batch / (p t)", f"{sums.tgs:.1f}"),
        ("the same as the source prints it, / N", f"{sums.tgs_printed:.1f}: 16 times too low")
        if run.data == 16
        else ("the same divided by all GPUs", f"{sums.tgs_printed:.1f}"),
    ]
    return Block("Arithmetic", columns=("figure", "value"), rows=rows)


def _losses(points: Sequence[Point]) -> Block:
    rows = [
        [
            f"{point.km:g}",
            f"{point.gpu_speed:g}",
            point.strategy,
            point.mode,
            f"{point.loss.loss_pct:.3f}",
            f"{point.loss.on_batch_pct:.3f}",
            "-" if point.simulated is None else f"{point.simulated.loss_pct:.3f}",
            "-" if point.simulated is None else f"{point.simulated.whole_loss_pct:.3f}",
        ]
        for point in points
    ]
    columns = (
        "km",
        "x",
        "strategy",
        "latency",
        "T_cal",
        "T_batch",
        "sim.",
        "+ line",
    )
    text = (
        "Percent of a step, by latency: formula on T_DP,cal and on T_batch; simulated against no"
        " distance, and (+ line) against one site. x: GPUs so many times as fast."
    )
    return Block("Loss of a step", text=text, columns=columns, rows=rows)


def _crossings(run: Across) -> Block:
    rows: list[Sequence[object]] = []
    for speed in run.gpu_speeds:
        row: list[object] = [f"x{speed:g}"]
        for mode in MODES:
            try:
                row.append(f"{crossing_km(run.with_gpus(speed), 5.0, mode):,.0f}")
            except BadPlan:
                row.append("-")
        rows.append(row)
    columns = ("GPU", *(f"{mode} km" for mode in MODES))
    text = "Where the ring loses 5 % by latency, on T_DP,cal."
    return Block("Five percent", text=text, columns=columns, rows=rows)


def _uneven(run: Across) -> Block:
    rows: list[Sequence[object]] = []
    if "pp" in run.strategies:
        ranks = [speed for speed, n in zip(run.speeds, run.stages, strict=True) for _ in range(n)]
        rows.append(("layers by stage", str(balanced(run.layers, ranks))))
        rows.append(("left idle, pp", f"{balance_loss_pct(run.layers, ranks):.2f} %"))
    if any(strategy.startswith("dp") for strategy in run.strategies):
        groups = [
            speed for speed, n in zip(run.speeds, run.replicas, strict=True) for _ in range(n)
        ]
        sequences = run.global_batch
        rows.append(("sequences by replica", str(balanced(sequences, groups))))
        rows.append(("left idle, dp", f"{balance_loss_pct(sequences, groups):.2f} %"))
    return Block("Sites of several speeds", columns=("figure", "value"), rows=rows)


def _trials(checked: Sequence[Checked]) -> Block:
    rows = [
        [
            item.trial.id,
            f"{item.trial.km:g}",
            item.trial.stated,
            item.strategy,
            item.mode,
            f"{item.ours_pct:.3f}",
            item.holds,
        ]
        for item in checked
    ]
    columns = ("trial", "km", "published loss", "strategy", "latency mode", "ours %", "holds")
    return Block("Published trials", columns=columns, rows=rows)
