"""`starloom route`: train a router from outcome files, and ask one."""

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from starloom.cli import show
from starloom.serve.route import BadOutcomes, Dial, RouteModel, Router, train
from starloom.serve.route.outcomes import joined, read, synthetic

app = typer.Typer(help="Which model takes a request: train a router, and ask it.")

_SYNTHETIC_ROWS = 2000


@app.command("train")
def train_router(
    out: Annotated[Path, typer.Option(help="The router's file, such as router.npz.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder of outcome files; made-up questions by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything that is drawn.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train a router on all outcome files under a folder and write it to one file."""
    if not out.parent.is_dir():
        raise BadOutcomes(f"{out.parent}: no such folder to write to")
    outcomes = synthetic(seed, _SYNTHETIC_ROWS) if data is None else joined(read(data).values())
    with show.err.status("training ...") as spinner:
        model = train(outcomes, seed=seed, told=lambda line: spinner.update(f"training: {line}"))
    model.save(out)
    about = msgspec.to_builtins(model.about)
    if json:
        show.as_json({"file": str(out), **about})
        return
    typer.echo(
        f"{out}: learned from {model.about.rows} questions, {len(model.about.topics) or 1} topics;"
        f" APGR {model.about.apgr:.3f}, calibration error {model.about.calibration_error:.3f}"
        " on held-out folds"
    )


@app.command("ask")
def ask(
    router: Annotated[Path, typer.Argument(help="A file that `starloom route train` wrote.")],
    text: Annotated[str, typer.Argument(help="What a user would ask.")],
    cost: Annotated[float, typer.Option(help="Share of requests for the large model.")] = 0.5,
    topic: Annotated[str | None, typer.Option(help="Its topic, where known.")] = None,
) -> None:
    """Print what a router decides on one text, as JSON."""
    model = RouteModel.load(router)
    asked = Router(model, small="small", large="large", dial=Dial("cost", cost))
    show.as_json(msgspec.to_builtins(asked.decide(text, topic=topic)))
