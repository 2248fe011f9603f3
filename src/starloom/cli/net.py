"""`starloom net`: run a scenario of the network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from starloom.cli import show
from starloom.fabric import BadScenario, Core, Result, Scenario, Stage

app = typer.Typer(help="The network: packets or fluid over one scenario file.")

_CORES = ("packet", "flow")
_BUSIEST = 4
_SHOWN = ("seed", "flows", "ended", "mean_us", "p99_us", "max_us", "resent", "trimmed", "lost")


@app.callback()
def _net() -> None:
    """Keeps `run` a sub-command while it is the only one."""


@app.command("run")
def run(
    file: Annotated[Path, typer.Argument(help="A scenario file.")],
    core: Annotated[str, typer.Option(help="packet or flow.")] = "packet",
    pictures: Annotated[
        Path | None, typer.Option(help="Folder for SVG pictures of the first seed's run.")
    ] = None,
    watch_us: Annotated[
        float, typer.Option(help="With pictures: read the busiest queues this often.")
    ] = 1.0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Simulate the scenario in FILE, one run a seed; exit 1 when a flow does not end."""
    scenario = Scenario.load(file)
    if core not in _CORES:
        raise BadScenario(f"--core {core}: there are {' and '.join(_CORES)}")
    found = _all(scenario, _core(core))
    if pictures is not None:
        _draw(scenario, core, found[0], watch_us, pictures)
    if json:
        show.as_json([_summary(scenario, *pair) for pair in _by_seed(scenario, found)])
    else:
        rows = [_summary(scenario, *pair) for pair in _by_seed(scenario, found)]
        show.out.print(f"{scenario.name}: {core} core, {_about(scenario)}")
        names = [name.replace("_", " ") for name in _SHOWN]
        show.table(names, [[row[name] for name in _SHOWN] for row in rows])
        show.out.print("\nbusiest links of the first run")
        show.table(("link", "busy %", "peak kB", "trims", "drops"), _busiest(scenario, found[0]))
    if any(result.finished < len(result.fct_ps) for result in found):
        show.err.print(f"flows did not end within {scenario.until_us:g} us: raise `until_us`?")
        raise typer.Exit(1)


def _core(name: str, **options: Any) -> Core:
    """Cores import Numba, which is slow to import and may be absent."""
    if name == "packet":
        from starloom.fabric.packet import PacketCore

        return PacketCore(**options)
    from starloom.fabric.flow import FlowCore

    return FlowCore()


def _all(scenario: Scenario, core: Core) -> list[Result]:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    found = []
    with Progress(*columns, console=show.err, transient=True) as progress:
        for seed in scenario.seeds:
            task = progress.add_task(f"seed {seed}", total=1.0)

            def told(share: float, word: str, task: Any = task, seed: int = seed) -> None:
                progress.update(task, completed=share, description=f"seed {seed}: {word}")

            found.append(core.run(scenario, seed, told))
    return found


def _by_seed(scenario: Scenario, found: Sequence[Result]) -> list[tuple[int, Result]]:
    return list(zip(scenario.seeds, found, strict=True))


def _about(scenario: Scenario) -> str:
    fabric = scenario.clos.fabric
    faults = f", {len(scenario.faults)} faults" if scenario.faults else ""
    return (
        f"{fabric.hosts:,} hosts, {fabric.tiers} tiers, {scenario.congestion},"
        f" {scenario.balancing}{faults}"
    )


def _summary(scenario: Scenario, seed: int, result: Result) -> dict[str, Any]:
    fct = result.fct_us if result.finished else np.array([np.nan])

    def total(values: Any) -> int:
        return 0 if values is None else int(values.sum())

    last_hop = result.link_bytes[scenario.clos.stage_of(np.arange(scenario.clos.links)) == 1]
    return {
        "seed": seed,
        "flows": len(result.fct_ps),
        "ended": result.finished,
        "mean_us": round(float(fct.mean()), 3),
        "p99_us": round(float(np.quantile(fct, 0.99)), 3),
        "max_us": round(float(fct.max()), 3),
        "resent": total(result.retransmitted),
        "trimmed": total(result.link_trims),
        "lost": total(result.link_drops),
        "into_hosts_mb": round(float(last_hop.sum()) / 1e6, 3),
        "hops": result.hops,
        "events": result.events,
        "cpu_s": round(result.cpu_s, 3),
    }


def _busiest(scenario: Scenario, result: Result) -> list[tuple[object, ...]]:
    """The busiest links of each stage that has any."""
    clos = scenario.clos
    duration_s = max(result.end_ps, 1) * 1e-12
    busy = 100 * result.link_bytes * 8e-9 / clos.gbps() / duration_s
    stages = clos.stage_of(np.arange(clos.links))

    def of(values: Any, link: int) -> float | str:
        return "-" if values is None else int(values[link])

    rows: list[tuple[object, ...]] = []
    for stage in Stage:
        links = np.flatnonzero(stages == stage)
        for link in links[np.argsort(-busy[links], kind="stable")[:_BUSIEST]]:
            peak = result.queue_peak_bytes
            held = "-" if peak is None else round(float(peak[link]) / 1e3, 1)
            trims, drops = of(result.link_trims, link), of(result.link_drops, link)
            rows.append((clos.name(int(link)), round(float(busy[link]), 2), held, trims, drops))
    return rows


def _draw(scenario: Scenario, core: str, first: Result, watch_us: float, folder: Path) -> None:
    """Queues over time need a second run, which knows by then where to look."""
    from starloom.fabric.plots import pictures

    if core == "packet" and first.queue_peak_bytes is not None:
        from starloom.fabric.packet import Watch

        links = np.argsort(-first.queue_peak_bytes, kind="stable")[:_BUSIEST]
        watching = _core(core, watch=Watch(links, watch_us))
        first = watching.run(scenario, scenario.seeds[0], lambda _share, _word: None)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in pictures(scenario.clos, first).items():
            path = folder / f"{name}.svg"
            path.write_text(text, encoding="utf-8")
            show.err.print(f"wrote {path}")
    except OSError as error:
        raise BadScenario(f"{folder}: cannot be written: {error.strerror}") from error
