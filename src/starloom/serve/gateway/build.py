"""Puts the gateway together. Everything that is not pure is handed in."""

import asyncio
import itertools
import os
import random
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial

from starloom.serve.engines import WatchedEngine
from starloom.serve.gateway.app import App
from starloom.serve.gateway.auth import Keys, Throttle
from starloom.serve.gateway.choose import Chooser
from starloom.serve.gateway.clock import Clock
from starloom.serve.gateway.conversations import Conversations
from starloom.serve.gateway.elsewhere import Elsewhere
from starloom.serve.gateway.forward import Forward
from starloom.serve.gateway.guarding import Guarding
from starloom.serve.gateway.line import Line
from starloom.serve.gateway.metrics import KeyMetrics, Metrics, WorkerMetrics
from starloom.serve.gateway.pages import Pages
from starloom.serve.gateway.prompts import Prompts, Wall
from starloom.serve.gateway.quota import Quotas
from starloom.serve.gateway.record import RequestLog
from starloom.serve.gateway.relay import WAIT_S, Relay
from starloom.serve.gateway.spans import Spans
from starloom.serve.gateway.surface import posts
from starloom.serve.gateway.tokens import Tokens
from starloom.serve.gateway.view import SharedView
from starloom.serve.gateway.workers import Workers
from starloom.serve.guard import Audit, Guard
from starloom.serve.models import ModelFiles
from starloom.serve.peers import Board, Bus, PeerLoop
from starloom.serve.signals import LoadBoard, Signals
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
    buses: Sequence[Bus] = (),
    spans: Spans | None = None,
) -> App:
    """The gateway of a site. `keys`: tenant -> SHA-256 (hex) of each of its keys.

    The app starts the engines with its lifespan, and closes them, `log` and `spans` at its end.
    `wait_s` bounds the wait for a worker to come up. `buses` lead to the site's other gateways.
    """
    clock = clock or Clock()
    limits = site.gateway.limits
    threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="tokenise")
    metrics = Metrics()
    workers = Workers(site, engines)
    tenants = {tenant.name: tenant for tenant in site.tenants}
    quotas = Quotas(tenants, clock.mono)
    guarding = Guarding(guard, audit, metrics, threads)
    chooser = Chooser(site, threads)
    forward = Forward(workers, guarding.outlet, clock.mono, wait_s)
    line = Line(
        limits=limits,
        prompts={model.name: _prompts(site, model.name, threads) for model in site.models},
        workers=workers,
        relay=Relay(workers, guarding.outlet, clock.mono, wait_s),
        forward=forward,
        guarding=guarding,
        draw_seed=draw_seed or partial(random.Random(secrets.randbits(128)).getrandbits, 63),
        chooser=chooser,
        quotas=quotas,
        tenants=tenants,
        now=clock.mono,
    )
    away = Elsewhere(
        limits=limits,
        prompts=line.prompts,
        workers=workers,
        forward=forward,
        guarding=guarding,
        quotas=quotas,
        now=clock.mono,
    )
    loads = LoadBoard(clock.mono)
    signals = Signals(
        site,
        workers.table,
        loads,
        lambda model, tenant: line.prompts[model].root(Wall(tenant)),
    )
    board = None
    if buses:
        me = f"{os.getpid()}-{secrets.token_hex(4)}"
        board = Board(me, SharedView(workers.table, quotas))
        workers.sent = board.sent
    bearers = Keys(keys, Throttle(limits.failed_keys_per_min, clock.mono))
    metrics.registry.register(KeyMetrics(lambda: bearers.failures))
    metrics.now.register(WorkerMetrics(workers, loads.fresh))
    if board is not None:
        board.samples = metrics.samples

    def up(name: str) -> None:
        workers.up(name)
        if name in signals.events:
            signals.events[name].retell()  # it was away, and may have lost nothing

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        await signals.start()
        for engine in engines:
            engine.on_up, engine.on_down = up, workers.down
            await engine.start()
        told = None
        if board is not None:
            told = asyncio.create_task(PeerLoop(board, buses, clock.mono).run())
        try:
            yield
        finally:
            if told is not None:
                told.cancel()
                await asyncio.wait((told,))
            await asyncio.gather(signals.close(), *(engine.close() for engine in engines))
            if guard is not None:
                await guard.close()
            threads.shutdown(wait=False, cancel_futures=True)
            if log is not None:
                log.close()
            if spans is not None:
                await asyncio.to_thread(spans.close)

    return App(
        site.gateway,
        line=line,
        posts=posts(line, away, Tokens(line.prompts, away), Conversations()),
        pages=Pages(site, workers, metrics, board, int(clock.wall())),
        keys=bearers,
        metrics=metrics,
        log=log,
        clock=clock,
        new_id=new_id or _ids(),
        quotas=quotas,
        board=board,
        spans=spans,
        lifespan=lifespan,
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
