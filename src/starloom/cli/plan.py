"""`starloom plan`: what a cluster would do, before it is built."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from starloom.cli import show
from starloom.plan import (
    BadPlan,
    Load,
    Plan,
    Profile,
    Serving,
    cluster_of,
    deploy,
    explain,
    goodput,
    model_shape,
    plan,
    profile,
    profile_of,
    site_supernode,
    supernode_of,
)
from starloom.plan.base import Cuts, Job
from starloom.plan.goodput import checkpoint_s
from starloom.plan.launch import megatron, sglang, vllm
from starloom.plan.legal import Limits, check
from starloom.plan.train import parts
from starloom.site import ModelShape, Site, Supernode

SITE = Annotated[str, typer.Argument(help="A site file, or a supernode of the catalogue.")]
MODEL = Annotated[str, typer.Option(help="Of the catalogue or the site, or a config.json.")]
GPUS = Annotated[int | None, typer.Option(help="Chips; by default all of the site's.")]
BATCH = Annotated[int, typer.Option(help="Sequences of one step.")]
SEQ = Annotated[int, typer.Option(help="Tokens of one sequence.")]
PRECISION = Annotated[str, typer.Option(help="bf16, fp8, mxfp8, nvfp4 or int8.")]
PROFILE = Annotated[str | None, typer.Option(help="Efficiency profile; by default the newest.")]
JSON = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class _Default(TyperGroup):
    """`starloom plan SITE` is `starloom plan train SITE`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            args = ["train", *args]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_Default, help="Plan training and serving before building.", no_args_is_help=True
)


@app.callback()
def _group() -> None:
    pass


@app.command()
def train(
    site: SITE,
    model: MODEL = "llama-3-70b",
    gpus: GPUS = None,
    objective: Annotated[str, typer.Option(help="time, or memory within 5 % of it.")] = "time",
    batch: BATCH = 1024,
    seq: SEQ = 4096,
    precision: PRECISION = "bf16",
    use: PROFILE = None,
    zero: Annotated[int, typer.Option(min=1, max=3, help="The highest ZeRO stage to try.")] = 3,
    top: Annotated[int, typer.Option(help="How many cuts to list.")] = 5,
    launch: Annotated[
        Path | None, typer.Option(help="Write the cut as a Megatron-LM command.")
    ] = None,
    why: Annotated[
        bool, typer.Option("--explain", help="Print the tree behind the number.")
    ] = False,
    json: JSON = False,
) -> None:
    """The best way to cut MODEL over the chips of SITE, of every legal one."""
    if objective not in ("time", "memory"):
        raise BadPlan(f"no objective {objective!r}: give time or memory")
    node, chips, shape = _asked(site, model, gpus)
    made = plan(
        shape,
        node,
        chips,
        batch,
        seq,
        precision=precision,
        objective="memory" if objective == "memory" else "time",
        use=use,
        limits=Limits(tp_most=min(node.chips, chips), zeros=tuple(range(1, zero + 1))),
    )
    rows = [_row(made, at) for at in _listed(made, top)]
    if launch is not None:
        _write(launch, megatron(shape, made.job, made.cut))
    estimate = made.estimate
    low, high = made.interval_s
    kept = goodput(chips, checkpoint_s(shape.weights, chips))
    if json:
        show.as_json(
            {
                "model": model,
                "supernode": node.name,
                "chips": chips,
                "profile": made.cluster.profile.name,
                "priced": made.found.priced,
                "fitting": made.found.fitting,
                "interval_s": [low, high],
                "goodput": float(kept.share),
                "parts_s": parts(estimate, 0),
                "cuts": rows,
                "explain": made.explain().as_dict() if why else None,
            }
        )
        return
    typer.echo(
        f"{model} on {chips} x {node.chip} ({node.name}), batch {batch} x {seq}, {precision},"
        f" profile {made.cluster.profile.name}"
    )
    typer.echo(f"{made.found.priced:,} cuts priced, {made.found.fitting:,} fit\n")
    show.table(tuple(rows[0]), [tuple(row.values()) for row in rows])
    split = ", ".join(
        f"{k.removesuffix('_s')} {v:.3g}" for k, v in parts(estimate, 0).items() if v > 0
    )
    typer.echo(f"\nstep {float(estimate.step_s[0]):.4g} s ({low:.3g} to {high:.3g}): {split}")
    typer.echo(
        f"goodput {float(kept.share):.1%}: a failure every {float(kept.mtbf_s) / 3600:.3g} h,"
        f" a checkpoint every {float(kept.interval_s) / 60:.3g} min"
    )
    if why:
        typer.echo("")
        for line in made.explain().lines():
            typer.echo(line)


@app.command("explain")
def explain_one(
    site: SITE,
    model: MODEL = "llama-3-70b",
    gpus: GPUS = None,
    batch: BATCH = 1024,
    seq: SEQ = 4096,
    precision: PRECISION = "bf16",
    use: PROFILE = None,
    tp: Annotated[int, typer.Option(help="Tensor parallel.")] = 1,
    pp: Annotated[int, typer.Option(help="Pipeline stages.")] = 1,
    vp: Annotated[int, typer.Option(help="Chunks a stage.")] = 1,
    cp: Annotated[int, typer.Option(help="Context parallel.")] = 1,
    ep: Annotated[int, typer.Option(help="Expert parallel.")] = 1,
    mbs: Annotated[int, typer.Option(help="Sequences a microbatch.")] = 1,
    zero: Annotated[int, typer.Option(min=0, max=3, help="ZeRO stage.")] = 1,
    recompute: Annotated[str, typer.Option(help="none, selective or full.")] = "none",
    schedule: Annotated[str, typer.Option(help="1f1b, zb-h1, zb-v or dualpipe.")] = "1f1b",
    json: JSON = False,
) -> None:
    """The tree behind one cut's step time; an impossible cut is told what breaks it."""
    node, chips, shape = _asked(site, model, gpus)
    if chips % (tp * pp * cp):
        raise BadPlan(
            f"tp {tp} x pp {pp} x cp {cp} = {tp * pp * cp} does not divide {chips} chips:"
            f" {chips % (tp * pp * cp)} are left; use {chips - chips % (tp * pp * cp)}"
        )
    job = Job(seq, precision)  # type: ignore[arg-type]
    cut = Cuts.of(
        gbs=batch,
        tp=tp,
        pp=pp,
        vp=vp,
        cp=cp,
        ep=ep,
        dp=chips // (tp * pp * cp),
        mbs=mbs,
        zero=zero,
        recompute=recompute,
        schedule=schedule,
    )
    cluster = cluster_of(node, _profile(use, node), min(node.chips, chips))
    check(shape, job, cut, Limits(tp_most=cluster.chips))
    tree = explain(shape, job, cluster, cut)
    if json:
        show.as_json(tree.as_dict())
        return
    for line in tree.lines():
        typer.echo(line)


@app.command()
def sweep(
    site: SITE,
    model: MODEL = "llama-3-70b",
    gpus: Annotated[str, typer.Option(help="Numbers of chips, by commas.")] = "64,128,256,512,1024",
    supernodes: Annotated[str, typer.Option(help="Sizes of the scale-up domain, by commas.")] = "",
    batch: BATCH = 1024,
    seq: SEQ = 4096,
    precision: PRECISION = "bf16",
    use: PROFILE = None,
    json: JSON = False,
) -> None:
    """The best cut at several numbers of chips or sizes of the supernode, each searched."""
    node, _, shape = _asked(site, model, 1)
    sizes = _numbers(supernodes, "supernodes") or [node.chips]
    rows = []
    for chips in _numbers(gpus, "gpus"):
        for size in sizes:
            sized = node.model_copy(update={"chips": size})
            made = plan(shape, sized, chips, batch, seq, precision=precision, use=use)
            rows.append({"gpus": chips, "supernode": size, **_row(made, made.at)})
    _print(rows, json)


@app.command()
def compare(
    sites: Annotated[list[str], typer.Argument(help="Site files or supernodes of the catalogue.")],
    model: MODEL = "llama-3-70b",
    gpus: GPUS = None,
    batch: BATCH = 1024,
    seq: SEQ = 4096,
    precision: PRECISION = "bf16",
    json: JSON = False,
) -> None:
    """The best cut on each of SITES, side by side."""
    rows = []
    for site in sites:
        node, chips, shape = _asked(site, model, gpus)
        made = plan(shape, node, chips, batch, seq, precision=precision)
        joules = chips * (_watts(node) or 0.0) / float(made.estimate.tokens_per_s_chip[0]) / chips
        row: dict[str, Any] = {"site": site, "chips": chips, **_row(made, made.at)}
        row["J/token"] = round(joules, 3) if joules else "-"
        row["error %"] = made.cluster.profile.error_pct
        rows.append(row)
    _print(rows, json)


@app.command()
def serve(
    site: SITE,
    model: MODEL = "llama-3-70b",
    gpus: GPUS = None,
    prompt: Annotated[int, typer.Option(help="Tokens of a prompt.")] = 1024,
    output: Annotated[int, typer.Option(help="Tokens of an answer.")] = 1024,
    ttft_ms: Annotated[float, typer.Option(help="Most to the first token.")] = 1000.0,
    tpot_ms: Annotated[float, typer.Option(help="Most for each token after it.")] = 50.0,
    precision: PRECISION = "fp8",
    usd_per_chip_hour: Annotated[float, typer.Option(help="Price of a chip.")] = 2.0,
    use: PROFILE = None,
    launch: Annotated[Path | None, typer.Option(help="Write the best as a command.")] = None,
    engine: Annotated[str, typer.Option(help="vllm or sglang, for --launch.")] = "vllm",
    json: JSON = False,
) -> None:
    """The ways to serve MODEL that give most tokens a chip within the latency limits."""
    node, chips, shape = _asked(site, model, gpus)
    chosen = profile(use) if use else profile_of(node.chip, serving=True)
    cluster = cluster_of(node, chosen)
    serving = Serving(precision, kv_bytes=2.0 if precision == "bf16" else 1.0)
    load = Load(prompt, output, ttft_ms / 1e3, tpot_ms / 1e3)
    found = deploy(shape, serving, cluster, load, chips, usd_per_chip_hour)
    if launch is not None:
        if engine not in ENGINES:
            raise BadPlan(f"no engine {engine!r}; there are: {', '.join(ENGINES)}")
        _write(launch, ENGINES[engine](model, found[0], precision, prompt + output))
    rows = [
        {
            "mode": one.mode,
            "tp": one.tp,
            "dp": one.dp,
            "ep": one.ep,
            "chips": one.chips,
            "P:D": f"{one.prefill_replicas}:{one.decode_replicas}",
            "users": one.users,
            "TTFT ms": round(1e3 * one.ttft_s, 1),
            "TPOT ms": round(1e3 * one.tpot_s, 2),
            "tokens/s/chip": round(one.tokens_per_s_chip, 1),
            "USD/M tokens": round(one.usd_per_million_tokens, 3),
        }
        for one in found
    ]
    _print(rows, json)


ENGINES = {"vllm": vllm, "sglang": sglang}


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadPlan(f"{path}: cannot be written: {error.strerror}") from error
    show.err.print(f"wrote {path}")


def _asked(site: str, model: str, gpus: int | None) -> tuple[Supernode, int, ModelShape]:
    """What the common arguments name."""
    if Path(site).is_file():
        read = Site.load(site)
        node, total = site_supernode(read)
        return node, gpus or total, model_shape(model, read)
    node = supernode_of(site)
    return node, gpus or node.chips, model_shape(model)


def _profile(use: str | None, node: Supernode) -> Profile:
    return profile(use) if use else profile_of(node.chip)


def _watts(node: Supernode) -> float | None:
    return None if node.power_kw is None else 1e3 * node.power_kw / node.chips


def _listed(made: Plan, top: int) -> list[int]:
    rest = [at for at in range(min(top, len(made.found.step_s))) if at != made.at]
    return [made.at, *rest][: max(top, 1)]


def _row(made: Plan, at: int) -> dict[str, Any]:
    cut = made.found.cuts.row(at)
    step = float(made.found.step_s[at])
    world = float(made.found.cuts.world[at])
    rate = float(cut["gbs"]) * made.job.seq_tokens / step / world
    kept = ("tp", "pp", "vp", "dp", "cp", "ep", "mbs", "zero", "recompute", "schedule")
    return {
        **{name: cut[name] for name in kept},
        "step s": round(step, 4),
        "tokens/s/chip": round(rate, 1),
        "GiB": round(float(made.found.memory_bytes[at]) / 2**30, 1),
    }


def _numbers(text: str, name: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise BadPlan(f"--{name} {text!r}: give whole numbers by commas") from error
    if any(one < 1 for one in found):
        raise BadPlan(f"--{name} {text!r}: give numbers of 1 or more")
    return found


def _print(rows: Sequence[dict[str, Any]], json: bool) -> None:
    if json:
        show.as_json(list(rows))
        return
    show.table(tuple(rows[0]), [tuple(row.values()) for row in rows])
