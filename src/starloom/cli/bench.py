"""`starloom bench`: measure, and print a table or one JSON object."""

from pathlib import Path
from typing import Annotated

import typer

from starloom.bench import BENCHES, Options, Row, run
from starloom.cli import show


def bench(
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join(sorted(BENCHES))}.")],
    data: Annotated[Path | None, typer.Option(help="Other data of the same form.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="End within a minute.")] = False,
    htsim: Annotated[Path | None, typer.Option(help="For `fabric`: an htsim_uec to time.")] = None,
    calculon: Annotated[Path | None, typer.Option(help="For `plan`: a checkout of it.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run the bench NAME. Rows are measured in this run; notes say what was absent."""
    options = Options(data=data, seed=seed, quick=quick, htsim=htsim, calculon=calculon)
    with show.err.status(f"bench {name} ...") as spinner:
        report = run(name, options, told=lambda line: spinner.update(f"bench {name}: {line}"))
    if json:
        show.as_json(report)
        return
    show.table(tuple(Row.__annotations__), [tuple(row.values()) for row in report["rows"]])
    for note in report["notes"]:
        typer.echo(f"note: {note}")
