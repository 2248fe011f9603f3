"""`starloom site`: look at a site file."""

from pathlib import Path
from typing import Annotated

import typer

from starloom.cli import show
from starloom.serve.models import ModelFiles
from starloom.serve.stack.children import pool_slots
from starloom.site import Site, SiteError, load_workers

app = typer.Typer(help="Check a site file.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="The site file.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check FILE: every problem with its line, its field and its fix. Exit 1 when there is one."""
    try:
        site = Site.load(file)
        joined = load_workers(site.base / site.workers_file, site) if site.workers_file else []
    except SiteError as error:
        if json:
            problems = [
                {"line": p.line, "field": p.field, "what": p.what, "fix": p.fix}
                for p in error.problems
            ]
            show.as_json({"file": str(file), "ok": False, "problems": problems})
        else:
            typer.echo(str(error))
        raise typer.Exit(1) from None
    rows = _rows(site.with_workers([*site.workers, *joined]))
    if json:
        names = ("worker", "model", "engine", "node", "chip", "kv_blocks")
        workers = [dict(zip(names, row, strict=True)) for row in rows]
        show.as_json({"file": str(file), "ok": True, "site": site.name, "workers": workers})
        return
    show.table(("worker", "model", "engine", "node", "chip", "KV blocks"), rows)
    slots = pool_slots(site)
    if slots:
        held = ", ".join(f"{count} blocks of {size:,} bytes" for size, count in slots.items())
        typer.echo(f"\npool: {held}")
    typer.echo(f"\n{file}: ok")


def _rows(site: Site) -> list[tuple[str, str, str, str, str, int | str]]:
    rows: list[tuple[str, str, str, str, str, int | str]] = []
    for worker in site.workers:
        blocks: int | str = "-"
        if worker.engine != "openai":
            block_bytes = ModelFiles(site, worker.model).block_bytes
            blocks = int(worker.kv_cache_gib * 2**30) // block_bytes
        chip = site.chip(worker.node).name
        rows.append((worker.name, worker.model, worker.engine, worker.node, chip, blocks))
    return rows
