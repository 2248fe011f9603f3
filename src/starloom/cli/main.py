"""`starloom`: the entry of all commands."""

import sys

import typer

from starloom import __version__
from starloom.bench import BenchError
from starloom.cli import (
    across,
    bench,
    doctor,
    key,
    kv,
    link,
    net,
    plan,
    route,
    site,
    skill,
    status,
    study,
    up,
)
from starloom.fabric import FabricError
from starloom.kv import KvError
from starloom.optics import OpticsError
from starloom.plan.errors import PlanError
from starloom.serve.errors import ServeError
from starloom.serve.route import RouteError
from starloom.serve.stack import StackError
from starloom.site import SiteError
from starloom.skills.errors import SkillError
from starloom.studies import StudyError

app = typer.Typer(
    name="starloom",
    help="Plan, simulate and run an AI factory.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("up")(up.up)
app.command("status")(status.status)
app.command("doctor")(doctor.doctor)
app.command("across")(across.across)
app.command("bench")(bench.bench)
app.command("study")(study.study)
app.command("key")(key.key)
app.add_typer(kv.app, name="kv")
app.add_typer(link.app, name="link")
app.add_typer(net.app, name="net")
app.add_typer(plan.app, name="plan")
app.add_typer(route.app, name="route")
app.add_typer(site.app, name="site")
app.add_typer(skill.app, name="skill")


@app.callback(invoke_without_command=True)
def _version(
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    if version:
        typer.echo(f"starloom {__version__}")
        raise typer.Exit


def main() -> None:
    """Run a command; errors that name their cause are told in one line, without a stack trace."""
    try:
        app()
    except (
        SiteError,
        FabricError,
        KvError,
        OpticsError,
        PlanError,
        StackError,
        ServeError,
        SkillError,
        RouteError,
        BenchError,
        StudyError,
    ) as error:
        typer.echo(f"starloom: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
