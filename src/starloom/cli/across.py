"""`starloom across`: training over several data centres."""

from pathlib import Path
from typing import Annotated

import typer

from starloom import __version__
from starloom.cli import show
from starloom.optics import page
from starloom.optics.report import shown
from starloom.plan.across import SHIPPED, Across, check, pages, points, read
from starloom.plan.errors import BadPlan


def across(
    file: Annotated[Path, typer.Argument(help="A run over several sites.")],
    trials: Annotated[
        Path | None, typer.Option(help="CSV of published trials; the source's own by default.")
    ] = None,
    fibre: Annotated[
        str | None, typer.Option(help="Every leg in this fibre of the catalogue instead.")
    ] = None,
    formula_only: Annotated[
        bool, typer.Option("--formula-only", help="Leave simulations out.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option(help="Write a self-contained page with a picture.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What distance costs the training run in FILE: formulas and simulations side by side."""
    run = Across.load(file)
    if fibre is not None:
        run = Across.model_validate(run.in_fibre(fibre=fibre).model_dump())
    table = list(points(run, simulate=not formula_only))
    known, left_out = (list(SHIPPED), []) if trials is None else read(trials)
    checked = list(check(run, known)) if trials is not None or html is not None else []
    if html is not None:
        text = page(
            f"Training across sites: {run.name}",
            pages.blocks(run, table, checked, pictures=True),
            lead=pages.headline(run),
            flags=pages.flags(run),
            foot=f"starloom {__version__}",
        )
        try:
            html.write_text(text, encoding="utf-8")
        except OSError as error:
            raise BadPlan(f"{html}: cannot be written: {error.strerror}") from error
        show.err.print(f"wrote {html}")
    if json:
        show.as_json(pages.as_json(run, table, checked))
        return
    for line in pages.headline(run):
        typer.echo(line)
    for flag in pages.flags(run):
        typer.echo(f"! {flag}")
    for block in pages.blocks(run, table, checked, pictures=False):
        show.out.print(f"\n[bold]{block.heading}[/bold]")
        if block.text:
            show.out.print(block.text, markup=False)
        show.table(block.columns, [[shown(cell) for cell in row] for row in block.rows])
    for line in left_out:
        typer.echo(f"left out: {line}")
