"""`starloom link`: design an optical link, and compare links."""

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from starloom import __version__
from starloom.cli import show
from starloom.optics import (
    BadLink,
    BadTopology,
    Link,
    design,
    evaluate,
    from_gnpy,
    page,
    pages,
    place,
    spectrum_to_gnpy,
    summary,
    to_gnpy,
)
from starloom.optics.report import shown

app = typer.Typer(help="Design an optical link: what it carries, how far, how fast.")

_Out = Annotated[Path | None, typer.Option(help="Write a self-contained page with pictures.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Equipment = Annotated[
    Path | None, typer.Option(help="GNPy equipment JSON, for a FILE that is a GNPy topology.")
]
_Spectrum = Annotated[Path | None, typer.Option(help="GNPy spectrum JSON, likewise.")]


@app.command("design")
def design_link(
    file: Annotated[Path, typer.Argument(help="A link file, or a GNPy topology (.json).")],
    equipment: _Equipment = None,
    spectrum: _Spectrum = None,
    mode: Annotated[str | None, typer.Option(help="Another mode than the file's.")] = None,
    sweep: Annotated[bool, typer.Option("--sweep", help="Try launch powers around it.")] = False,
    avoid_gas: Annotated[
        bool, typer.Option("--avoid-gas", help="Place and rate channels around gas lines.")
    ] = False,
    cut_hours: Annotated[
        float | None,
        typer.Option(help="As mended after a cut that let outdoor air in for so long.", min=0),
    ] = None,
    html: _Out = None,
    gnpy: Annotated[
        Path | None,
        typer.Option(help="Folder for the link as GNPy topology, equipment and spectrum."),
    ] = None,
    json: _Json = False,
) -> None:
    """Evaluate the link in FILE from end to end. Exit 1 when a channel lacks margin."""
    link = _read(file, equipment, spectrum)
    if mode is not None:
        link = _in_mode(link, mode)
    if cut_hours is not None:
        link = design.after_cut(link, cut_hours)
    made = evaluate(link)
    placed = place(link, _coherent(link), spare_db=0.2) if avoid_gas else None
    if placed is not None:
        made = placed.design
    swept = design.power_sweep(link, _powers(link)) if sweep or html is not None else None
    if gnpy is not None:
        _write_gnpy(link, gnpy)
    if html is not None:
        blocks = pages.design_blocks(made, swept, pictures=True)
        _write_page(html, f"Link {link.name}", blocks, pages.headline(made), made.flags)
    if json:
        told = summary.summary(made) | {"output_needed": summary.output_table(made)}
        if placed is not None:
            told["placed_modes"] = placed.modes
        if swept is not None:
            told["sweep"] = summary.sweep_json(swept)
        show.as_json(told)
    else:
        _print(pages.headline(made), pages.design_blocks(made, swept, pictures=False), made.flags)
        if placed is not None:
            counts = {name: placed.modes.count(name) for name in dict.fromkeys(placed.modes)}
            told_counts = ", ".join(f"{count} x {name}" for name, count in counts.items())
            typer.echo(f"\nplaced around gas lines: {told_counts or 'nothing fits'}")
    if not made.works:
        raise typer.Exit(1)


@app.command("compare")
def compare(
    files: Annotated[list[Path], typer.Argument(help="Link files; of one, its twins are made.")],
    fibre: Annotated[
        list[str] | None, typer.Option(help="Fibres of the twins; smf and hcf by default.")
    ] = None,
    html: _Out = None,
    json: _Json = False,
) -> None:
    """Put links side by side, or one link beside the same route in other fibres.

    A twin is sent with the launch power that serves it best.
    """
    links = [_read(file) for file in files]
    if len(links) == 1:
        named = design.twins(links[0], tuple(fibre or ("smf", "hcf")))
        named = {
            name: link if name == "as stated" else _at_best(link) for name, link in named.items()
        }
    else:
        named = {link.name: link for link in links}
        if len(named) < len(links):
            raise BadLink("two of the links have one name: give each its own `name`")
    designs = {name: evaluate(link) for name, link in named.items()}
    if html is not None:
        blocks = pages.compare_blocks(designs, pictures=True)
        _write_page(html, "Links side by side", blocks, [], [])
    if json:
        show.as_json({name: summary.summary(made) for name, made in designs.items()})
        return
    _print([], pages.compare_blocks(designs, pictures=False), [])


def _read(file: Path, equipment: Path | None = None, spectrum: Path | None = None) -> Link:
    if file.suffix != ".json":
        return Link.load(file)
    kit, channels = (None if path is None else _json_file(path) for path in (equipment, spectrum))
    return from_gnpy(_json_file(file), kit, channels)


def _json_file(path: Path) -> dict[str, Any]:
    try:
        held = jsonlib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, jsonlib.JSONDecodeError) as error:
        raise BadTopology(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(held, dict):
        raise BadTopology(f"{path}: holds no JSON object")
    return held


def _in_mode(link: Link, mode: str) -> Link:
    known = [m.name for m in link.all_modes()]
    if mode not in known:
        raise BadLink(f"no mode {mode!r}; there are: {', '.join(known)}")
    return link.changed(mode=mode, spacing_ghz=None, channels=None)


def _coherent(link: Link) -> list[Any]:
    """Modes worth mixing: the link's own rate and above."""
    return [m for m in link.all_modes() if m.rate_gbps >= link.mode_noun.rate_gbps / 2]


def _at_best(link: Link) -> Link:
    return link.changed(launch_dbm=design.best_launch_dbm(link))


def _powers(link: Link) -> list[float]:
    return [float(x) for x in np.arange(link.launch_dbm - 8, link.launch_dbm + 8.1, 1.0)]


def _write_gnpy(link: Link, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    topology, equipment = to_gnpy(link)
    files = {
        "topology": topology,
        "equipment": equipment,
        "spectrum": spectrum_to_gnpy(link),
    }
    for name, held in files.items():
        path = folder / f"{name}.json"
        path.write_text(jsonlib.dumps(held, indent=2) + "\n", encoding="utf-8")


def _write_page(
    path: Path, title: str, blocks: list[Any], lead: list[str], flags: list[str]
) -> None:
    foot = f"starloom {__version__}; figures of parts with their sources: optics/catalogue"
    text = page(title, blocks, lead=lead, flags=flags, foot=foot)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadLink(f"{path}: cannot be written: {error.strerror}") from error
    show.err.print(f"wrote {path}")


def _print(lead: list[str], blocks: list[Any], flags: list[str]) -> None:
    for line in lead:
        typer.echo(line)
    for flag in flags:
        typer.echo(f"! {flag}")
    for block in blocks:
        show.out.print(f"\n[bold]{block.heading}[/bold]")
        if block.text:
            show.out.print(block.text, markup=False)
        if block.columns:
            rows = [
                [cell if isinstance(cell, int | float) else shown(cell) for cell in row]
                for row in block.rows
            ]
            show.table(block.columns, [_yes_no(row) for row in rows])


def _yes_no(row: list[Any]) -> list[Any]:
    return [shown(cell) if isinstance(cell, bool) else cell for cell in row]
