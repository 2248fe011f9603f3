"""`starloom status`: what a running site does now, asked of its own processes."""

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import httpx
import msgspec
import typer

from starloom.cli import show
from starloom.kv import KvError, PoolClient
from starloom.serve.engines import connect
from starloom.serve.gateway.healthfile import read
from starloom.serve.gateway.membership import WorkerState
from starloom.serve.rundir import RunDir
from starloom.serve.stack import StackError

_WAIT_S = 2.0
_BREAKERS = ("closed", "half_open", "open")
"""From well to worst."""


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
    found["workers"] = with_states(found["workers"], _states(rundir))
    if json:
        show.as_json(found)
        return
    typer.echo(f"{name} at {found['url']}: {found['ready']}\n")
    columns = (
        *("worker", "model", "source", "up", "draining", "breaker"),
        *("running", "waiting", "kv_blocks_used", "kv_blocks"),
    )
    show.table(columns, [[row[column] for column in columns] for row in found["workers"]])
    pool = found["pool"]
    if pool is not None:
        typer.echo("\n" + "\n".join(pool_lines(pool)))


def pool_lines(pool: Mapping[str, int]) -> list[str]:
    """The pool's counters; those of its SSD tier and of nodes on lines of their own."""
    below = [key for key in pool if key.startswith(("ssd_", "demoted_", "dropped_"))]
    afar = [key for key in pool if key.startswith(("remote_", "nodes"))]
    above = [key for key in pool if key not in (*below, *afar)]
    lines = ["pool: " + ", ".join(f"{pool[key]:,} {key}" for key in above)]
    healthy = pool["ssd_healthy"]
    if pool["ssd_slots"] or not healthy:
        counts = ", ".join(f"{pool[key]:,} {key}" for key in below if key != "ssd_healthy")
        lines.append(f"pool, SSD: {'healthy' if healthy else 'NOT HEALTHY: see its log'}, {counts}")
    if pool["nodes"]:
        counts = ", ".join(f"{pool[key]:,} {key}" for key in afar if key != "remote_healthy")
        well = "healthy" if pool["remote_healthy"] else "NOT HEALTHY: see its log"
        lines.append(f"pool, nodes: {well}, {counts}")
    return lines


def with_states(
    rows: Sequence[Mapping[str, Any]], states: Sequence[WorkerState]
) -> list[dict[str, Any]]:
    """Rows of the site's workers, with what gateways know of them; then of those that joined.

    A breaker is shown at its worst, and a worker drains while one gateway lets it.
    """
    of: dict[str, list[WorkerState]] = {}
    for state in states:
        of.setdefault(state.name, []).append(state)
    stated = {row["worker"]: row for row in rows}
    found = []
    for name in dict.fromkeys((*stated, *of)):
        told = of.get(name, [])
        breakers = [state.breaker for state in told]
        known = {
            "source": told[0].source if told else "site",
            "draining": any(state.draining for state in told),
            "breaker": max(breakers, key=_BREAKERS.index, default="closed"),
            "breakers": breakers,
        }
        found.append({**(stated.get(name) or _joined(told)), **known})
    return found


def _joined(told: Sequence[WorkerState]) -> dict[str, Any]:
    """A worker that is not in the site file: gateways alone know of it."""
    return {
        "worker": told[0].name,
        "model": told[0].model,
        "up": any(state.up for state in told),
        "running": max(state.outstanding for state in told),
        "waiting": 0,
        "kv_blocks_used": 0,
        "kv_blocks": 0,
    }


def _states(rundir: RunDir) -> list[WorkerState]:
    """What the gateway processes wrote last."""
    count = rundir.site().gateway.processes
    return [state for number in range(count) for state in read(rundir.health(number))]


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
