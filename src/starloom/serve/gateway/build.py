"""Puts the gateway together. Everything that is not pure is handed in."""

import asyncio
import itertools
import logging
import os
import random
import secrets
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from starloom.serve.disagg import ROOM_BITS
from starloom.serve.engines import OpenAIEngine, WatchedEngine
from starloom.serve.gateway.admin import Admin
from starloom.serve.gateway.app import App
from starloom.serve.gateway.auth import Keys, Throttle
from starloom.serve.gateway.changes import Changes
from starloom.serve.gateway.choose import Chooser
from starloom.serve.gateway.clock import Clock
from starloom.serve.gateway.conversations import Conversations
from starloom.serve.gateway.elsewhere import Elsewhere
from starloom.serve.gateway.forward import Forward
from starloom.serve.gateway.guarding import Guarding
from starloom.serve.gateway.halves import Halves
from starloom.serve.gateway.healthfile import keep_written
from starloom.serve.gateway.life import Loop, living
from starloom.serve.gateway.line import Line
from starloom.serve.gateway.membermetrics import MemberMetrics
from starloom.serve.gateway.membership import Members
from starloom.serve.gateway.metrics import KeyMetrics, Metrics, WorkerMetrics
from starloom.serve.gateway.pages import Pages
from starloom.serve.gateway.prompts import Prompts, Wall
from starloom.serve.gateway.quota import Quotas
from starloom.serve.gateway.record import RequestLog
from starloom.serve.gateway.relay import WAIT_S, Relay
from starloom.serve.gateway.roles import RoleKeeper
from starloom.serve.gateway.sources import Resolve, resolve, sources
from starloom.serve.gateway.spans import Spans
from starloom.serve.gateway.surface import posts
from starloom.serve.gateway.tokens import Tokens
from starloom.serve.gateway.view import SharedView
from starloom.serve.gateway.workers import Workers
from starloom.serve.guard import Audit, Guard
from starloom.serve.models import ModelFiles
from starloom.serve.peers import Board, Bus, PeerLoop
from starloom.serve.rundir import write_whole
from starloom.serve.schedule import Breakers
from starloom.serve.signals import LoadBoard, Signals
from starloom.serve.tokenise import Tokeniser
from starloom.site import OpenAIWorker, Site

_log = logging.getLogger(__name__)

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
    members_file: Path | None = None,
    health_file: Path | None = None,
    make: Callable[[OpenAIWorker], WatchedEngine] = OpenAIEngine,
    resolver: Resolve = resolve,
    leads: bool = True,
) -> App:
    """The gateway of a site. `keys`: tenant -> SHA-256 (hex) of each of its keys.

    The app starts the engines with its lifespan, and closes them, `log` and `spans` at its end.
    `wait_s` bounds the wait for a worker to come up. `buses` lead to the site's other gateways.
    `members_file` keeps what the admin API changed over this process's death, `health_file` is
    written for `starloom status`. `make` gives the engine of a worker that joins, and `resolver`
    the addresses of a DNS name. `leads`: of several gateways one alone changes workers' roles.
    """
    clock = clock or Clock()
    limits = site.gateway.limits
    threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="tokenise")
    metrics = Metrics()
    workers = Workers(site, engines, Breakers(site.breaker, clock.mono, random.random))
    tenants = {tenant.name: tenant for tenant in site.tenants}
    quotas = Quotas(tenants, clock.mono)
    guarding = Guarding(guard, audit, metrics, threads)
    chooser = Chooser(site, threads)
    forward = Forward(workers, guarding.outlets, clock.mono, wait_s)
    line = Line(
        limits=limits,
        prompts={model.name: _prompts(site, model.name, threads) for model in site.models},
        workers=workers,
        relay=Relay(workers, guarding.outlet, clock.mono, wait_s),
        forward=forward,
        halves=Halves(forward, workers, clock.mono, wait_s, partial(secrets.randbits, ROOM_BITS)),
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
    loads = LoadBoard(clock.mono, workers.told_load)
    signals = Signals(
        site,
        workers.table,
        loads,
        lambda model, tenant: line.prompts[model].root(Wall(tenant)),
    )
    board = None
    me = f"{os.getpid()}-{secrets.token_hex(4)}"
    if buses:
        board = Board(me, SharedView(workers.table, quotas))
        workers.sent = board.sent
    throttle = Throttle(limits.failed_keys_per_min, clock.mono)
    bearers = Keys(keys, throttle)
    metrics.registry.register(KeyMetrics(lambda: bearers.failures))
    metrics.now.register(WorkerMetrics(workers, loads.fresh))
    if board is not None:
        board.samples = metrics.samples

    def up(name: str) -> None:
        workers.up(name)
        if name in signals.events:
            signals.events[name].retell()  # it was away, and may have lost nothing

    stated = site.gateway.admin
    changes = Changes(me, clock.wall, stated.key_sha256 if stated else (), _keeper(members_file))
    members = Members(
        site,
        workers,
        signals,
        changes,
        sources(site, clock.mono, resolver),
        make=make,
        on_up=up,
        now=clock.mono,
    )
    metrics.now.register(MemberMetrics(workers, members))
    roles = RoleKeeper(site, workers, clock.mono, leads=leads)
    admin = None
    if stated is not None:
        admin_keys = Keys({"admin": stated.key_sha256}, throttle)
        admin = Admin(admin_keys, members, workers, limits)
        metrics.registry.register(KeyMetrics(lambda: admin_keys.failures, "admin_"))
        if members_file is not None and members_file.exists():
            changes.take(members_file.read_bytes())
        if board is not None:
            board.members, board.heard = changes.tell, changes.take

    for engine in engines:
        engine.on_up, engine.on_down = up, workers.down
    loops: list[Loop] = []
    if board is not None:
        loops.append(PeerLoop(board, buses, clock.mono).run)
    if health_file is not None:
        loops.append(partial(keep_written, health_file, members))
    if roles.needed:
        loops.append(roles.run)

    async def ended() -> None:
        threads.shutdown(wait=False, cancel_futures=True)
        if log is not None:
            log.close()
        if spans is not None:
            await asyncio.to_thread(spans.close)

    ends = [ended] if guard is None else [guard.close, ended]
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
        admin=admin,
        lifespan=lambda: living([signals, *engines], members, loops, ends),
    )


def _keeper(path: Path | None) -> Callable[[bytes], object]:
    """Keeps words about workers in a file, where there is one."""

    def keep(words: bytes) -> None:
        if path is not None:
            try:
                write_whole(path, words)
            except OSError as error:
                _log.error("cannot keep what the admin API changed: %s", error)

    return keep


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
