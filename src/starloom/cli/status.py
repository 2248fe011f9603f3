"""`starloom status`: what a running site does now, asked of its own processes."""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Annotated, Any

import httpx
import msgspec
import typer

from starloom.cli import show
from starloom.kv import KvError, PoolClient
from starloom.serve.engines import connect
from starloom.serve.rundir import RunDir
from starloom.serve.stack import StackError

_WAIT_S = 2.0


def status(
    name: Annotated[str, typer.Argument(help="The site's name.")] = "laptop",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the workers and the pool of the running site NAME."""
    rundir = RunDir.default(name)
    state = rundir.state()
    if state is None:
        raise StackError(f"no site {name!r} runs here; start one by `starloom up`")
    found = {**state, **asyncio.run(_workers(rundir, str(state["url"]))), "pool": _pool(rundir)}
    if json:
        show.as_json(found)
        return
    typer.echo(f"{name} at {found['url']}: {found['ready']}\n")
    columns = ("worker", "model", "up", "running", "waiting", "kv_blocks_used", "kv_blocks")
    show.table(columns, [[row[column] for column in columns] for row in found["workers"]])
    pool = found["pool"]
    if pool is not None:
        typer.echo("\npool: " + ", ".join(f"{value:,} {key}" for key, value in pool.items()))


async def _workers(rundir: RunDir, url: str) -> dict[str, Any]:
    engines = connect(rundir.site(), rundir)
    for engine in engines:
        await engine.start()
    ready = await _gateway(url)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_WAIT_S):
            while not all(engine.ready for engine in engines):
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.3)  # a load report follows within this time
    rows = [
        {
            "worker": engine.name,
            "model": engine.model,
            "up": engine.ready,
            "running": 0,
            "waiting": 0,
            "kv_blocks_used": 0,
            "kv_blocks": 0,
            **msgspec.to_builtins(engine.report()),
        }
        for engine in engines
    ]
    for engine in engines:
        await engine.close()
    return {"ready": ready, "workers": rows}


async def _gateway(url: str) -> str:
    try:
        async with httpx.AsyncClient(timeout=_WAIT_S, trust_env=False) as client:
            answer = await client.get(f"{url}/ready")
    except httpx.HTTPError as error:
        return f"the gateway does not answer: {error}"
    return "ready" if answer.status_code == 200 else f"not ready: {answer.text}"


def _pool(rundir: RunDir) -> Mapping[str, int] | None:
    if rundir.site().pool is None:
        return None
    client = PoolClient(rundir.pool_socket, timeout_s=_WAIT_S)
    try:
        stat: dict[str, int] = msgspec.to_builtins(client.stat())
    except KvError:
        return None
    finally:
        client.close()
    return stat
