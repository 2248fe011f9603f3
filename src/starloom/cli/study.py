"""`starloom study`: a published claim, computed again."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from starloom.cli import show
from starloom.studies import STUDIES, Options, run, write_svg

_VERDICT = {True: "holds", False: "does not hold", None: ""}


def study(
    name: Annotated[
        str | None, typer.Argument(help="Which one; without it, all are listed.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Data of the study's form.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Smaller, within a minute.")] = False,
    svg: Annotated[Path | None, typer.Option(help="Write the picture to this file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compute a published claim again: the source's figure, ours, and whether it holds."""
    if name is None:
        rows = [(each, STUDIES[each].TITLE, STUDIES[each].CLAIM) for each in sorted(STUDIES)]
        if json:
            show.as_json([dict(zip(("name", "title", "claim"), row, strict=True)) for row in rows])
        else:
            show.table(("study", "about", "the claim"), rows)
        return
    with show.err.status(f"study {name} ...") as spinner:
        found = run(
            name,
            Options(data=data, seed=seed, quick=quick),
            told=lambda line: spinner.update(f"study {name}: {line}"),
        )
    about = STUDIES[name]
    if svg is not None:
        write_svg(svg, about.TITLE, found)
    if json:
        figures = [{**asdict(one), "difference": one.difference} for one in found.figures]
        show.as_json(
            {
                "study": name,
                "claim": about.CLAIM,
                "source": about.SOURCE,
                "seed": seed,
                "figures": figures,
                "notes": found.notes,
            }
        )
        return
    typer.echo(f"{about.TITLE}: {about.CLAIM}\nsource: {about.SOURCE}\n")
    show.table(
        ("figure", "unit", "stated", "ours", "verdict"),
        [
            (
                one.what,
                one.unit,
                "" if one.stated is None else f"{one.stated:.4g}",
                f"{one.ours:.4g}",
                _VERDICT[one.holds],
            )
            for one in found.figures
        ],
    )
    for one in found.figures:
        if one.why:
            typer.echo(f"{one.what}: {one.why}")
    for note in found.notes:
        typer.echo(f"note: {note}")
