"""Puts the gateway together. Everything that is not pure is handed in."""

import asyncio
import itertools
import random
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial

from starlette.routing import Router

from starloom.serve.engines import WatchedEngine
from starloom.serve.gateway.app import App
from starloom.serve.gateway.auth import Keys, Throttle
from starloom.serve.gateway.clock import Clock
from starloom.serve.gateway.guarding import Guarding
from starloom.serve.gateway.line import Line
from starloom.serve.gateway.metrics import Metrics, WorkerMetrics
from starloom.serve.gateway.pages import Pages
from starloom.serve.gateway.prompts import Prompts
from starloom.serve.gateway.record import RequestLog
from starloom.serve.gateway.relay import WAIT_S, Relay
from starloom.serve.gateway.workers import Workers
from starloom.serve.guard import Audit, Guard
from starloom.serve.models import ModelFiles
from starloom.serve.tokenise import Tokeniser
from starloom.site import OpenAIWorker, Site

_THREADS = 2


def create_app(
    site: Site,
    engines: Sequence[WatchedEngine],
    keys: Mapping[str, Sequence[str]],
    *,
    clock: Clock | None = None,
    guard: Guard | None = None,
    audit: Audit | None = None,
    log: RequestLog | None = None,
    new_id: Callable[[], str] | None = None,
    draw_seed: Callable[[], int] | None = None,
    wait_s: float = WAIT_S,
) -> App:
    """The gateway of a site. `keys`: tenant -> SHA-256 (hex) of each of its keys.

    The app starts the engines with its lifespan and closes them, and `log`, at its end. `wait_s`
    bounds the wait for a worker to come up.
    """
    clock = clock or Clock()
    limits = site.gateway.limits
    threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="tokenise")
    metrics = Metrics()
    workers = Workers(site, engines)
    guarding = Guarding(guard, audit, metrics, threads)
    line = Line(
        limits=limits,
        prompts={model.name: _prompts(site, model.name, threads) for model in site.models},
        workers=workers,
        relay=Relay(workers, guarding.outlet, clock.mono, wait_s),
        guarding=guarding,
        draw_seed=draw_seed or partial(random.Random(secrets.randbits(128)).getrandbits, 63),
    )
    bearers = Keys(keys, Throttle(limits.failed_keys_per_min, clock.mono))
    metrics.registry.register(WorkerMetrics(workers, lambda: bearers.failures))

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        for engine in engines:
            engine.on_up, engine.on_down = workers.up, workers.down
            await engine.start()
        try:
            yield
        finally:
            await asyncio.gather(*(engine.close() for engine in engines))
            threads.shutdown(wait=False, cancel_futures=True)
            if log is not None:
                log.close()

    return App(
        site.gateway,
        line=line,
        pages=Pages(site, workers, metrics, int(clock.wall())),
        keys=bearers,
        metrics=metrics,
        log=log,
        clock=clock,
        new_id=new_id or _ids(),
        lifespan=Router(lifespan=lifespan),
    )


def _ids() -> Callable[[], str]:
    """Names that no other process gives: a random part drawn once, and a number."""
    start = secrets.token_hex(8)
    numbers = itertools.count()
    return lambda: f"{start}{next(numbers):08x}"


def _prompts(site: Site, name: str, threads: ThreadPoolExecutor) -> Prompts:
    files = ModelFiles(site, name)
    folder = files.tokenizer_folder
    tokeniser = None if folder is None else Tokeniser.load(folder)
    workers = [worker for worker in site.workers if worker.model == name]
    elsewhere = all(isinstance(worker, OpenAIWorker) for worker in workers)
    fingerprint = f"elsewhere:{name}" if elsewhere else files.fingerprint
    return Prompts(files.model, tokeniser, fingerprint, threads)
