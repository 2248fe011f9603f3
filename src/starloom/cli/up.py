"""`starloom up`: start a site on this machine, and stop it by Ctrl-C."""

import asyncio
import shlex
import signal
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from starloom import __version__
from starloom.cli import show
from starloom.serve.rundir import RunDir
from starloom.serve.stack import Stack, StackError
from starloom.site import Site

DEFAULT_SITE = Path(__file__).with_name("laptop.yaml")
QUESTION = "sogu=jebo\nvake=rele\nsogu?"
"""The models that ship answer `jebo`: the value of the key that is asked for."""


def up(
    file: Annotated[Path, typer.Argument(help="The site file; a laptop's by default.")] = (
        DEFAULT_SITE
    ),
    port: Annotated[
        int | None, typer.Option(help="Listen here instead of the site's `gateway.port`.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON line when ready.")] = False,
) -> None:
    """Start a site: its KV pool, workers and gateway. Ctrl-C drains and stops everything."""
    site = Site.load(file)
    if port is not None:
        gateway = site.gateway.model_copy(update={"port": port})
        site = site.model_copy(update={"gateway": gateway})
    asyncio.run(_run(site, json))


async def _run(site: Site, json: bool) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    started = time.monotonic()
    stack = Stack(site, RunDir.default(site.name), told=lambda line: show.err.print(escape(line)))
    async with stack:
        ready = asyncio.create_task(stack.ready())
        asked = asyncio.create_task(stop.wait())
        with show.err.status(f"starting {len(site.workers)} workers of site {site.name} ..."):
            await asyncio.wait({ready, asked}, return_when=asyncio.FIRST_COMPLETED)
        if not ready.done():
            ready.cancel()
            return
        try:
            ready.result()
        except StackError:
            asked.cancel()
            raise
        seconds = time.monotonic() - started
        if json:
            print(_json(stack, seconds), flush=True)  # noqa: T201 - stdout is the interface
        else:
            _screen(stack, seconds)
        await asked
        show.err.print("stopping: running answers may finish ...")
    show.err.print("stopped.")


def _json(stack: Stack, seconds: float) -> str:
    import json

    return json.dumps({"url": stack.url, "key": stack.made_key, "ready_s": round(seconds, 3)})


def _screen(stack: Stack, seconds: float) -> None:
    """One screen: endpoints, a curl line, a Python line, how to stop."""
    site, url = stack.site, stack.url
    key = stack.made_key or "$STARLOOM_KEY"
    model = site.models[0].name
    question = QUESTION.replace("\n", "\\n")
    body = (
        f'{{"model": "{model}", "max_tokens": 16, "temperature": 0,'
        f' "messages": [{{"role": "user", "content": "{question}"}}]}}'
    )
    names = {m.name: [w.name for w in site.workers if w.model == m.name] for m in site.models}
    models = "   ".join(f"{name} ({', '.join(workers)})" for name, workers in names.items())
    pool = f"{site.pool.dram_gib:g} GiB of shared memory" if site.pool else "none"
    lines = [
        f"[bold]starloom {__version__}[/]  site [bold]{site.name}[/], ready in {seconds:.1f} s",
        "",
        f"  API      {url}/v1",
        f"  key      {key}" + ("   (made for this run, shown once)" if stack.made_key else ""),
        f"  models   {models}",
        f"  KV pool  {pool}",
        f"  metrics  {url}/metrics (same key)   health  {url}/ready",
        f"  logs     {stack.rundir.path / 'log'}",
        "",
        "[bold]curl[/]",
        f"  curl {url}/v1/chat/completions \\",
        f"    -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\",
        f"    -d {shlex.quote(body)}".replace("[", r"\["),
        "",
        "[bold]Python[/]",
        "  from openai import OpenAI",
        f'  client = OpenAI(base_url="{url}/v1", api_key="{key}")',
        f'  client.chat.completions.create(model="{model}", temperature=0,',
        f'      messages=\\[{{"role": "user", "content": "{question}"}}])',
        "",
        "Ctrl-C stops everything; `starloom status` shows what runs.",
    ]
    show.out.print("\n".join(lines), soft_wrap=True)
