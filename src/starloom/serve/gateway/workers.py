"""The workers behind the gateway: which are up, and which one is tried next."""

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from starloom.serve.base import Engine
from starloom.serve.engines import Forwarder
from starloom.serve.errors import EngineFailed, ServeError, Unavailable
from starloom.serve.models import ModelFiles
from starloom.serve.schedule import POLICIES, Ask, Ticket, WorkerTable
from starloom.site import OpenAIWorker, Site, Worker

_ATTEMPTS = 3
_LOOK_AGAIN_S = 0.25
_UNKNOWN_KV_BLOCKS = 1 << 16


class Able(NamedTuple):
    """Workers that can take a request."""

    upstream: bool
    """Whether one of them wants the client's own body."""
    never: tuple[str, ...]
    """Those of the model that cannot."""
    elsewhere: bool = False
    """Whether all that can are servers elsewhere, so that bodies and answers pass as they are."""


class Workers:
    """Engines by name, and the table that the schedule reads."""

    def __init__(self, site: Site, engines: Sequence[Engine]) -> None:
        self.engines = {engine.name: engine for engine in engines}
        told = any(isinstance(w, OpenAIWorker) and w.kv_events for w in site.workers)
        self.table = WorkerTable(POLICIES[site.schedule.policy], exact=told)
        self.upstream = {w.name for w in site.workers if isinstance(w, OpenAIWorker)}
        """Workers that take the client's own body."""
        self.sent: Callable[[str, Sequence[bytes]], None] = _nobody
        """Told of each request that goes to a worker: its name, and the prompt's keys."""
        self._up: set[str] = set()
        self._able: dict[tuple[str, bool, str], Able] = {}
        self._closed_to: dict[str, Collection[str]] = {
            worker.name: worker.tenants
            for worker in site.workers
            if isinstance(worker, OpenAIWorker) and worker.tenants
        }
        """Workers that take only some tenants' requests."""
        self._waiting: set[asyncio.Future[None]] = set()
        for engine in engines:
            blocks = _kv_blocks(site, site.worker(engine.name))
            self.table.add(engine.name, engine.model, blocks)
            if engine.ready:
                self.up(engine.name)

    def up(self, name: str) -> None:
        """A worker takes requests."""
        self._up.add(name)
        self.table.up(name)
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    def down(self, name: str) -> None:
        """A worker is lost."""
        self._up.discard(name)
        self.table.down(name)

    def able(self, model: str, *, own: bool, tenant: str = "") -> Able:
        """Who can take a request: everybody, or (`own` false) backends of OpenAI's API alone."""
        able = self._able.get((model, own, tenant))
        if able is None:
            able = self._able[model, own, tenant] = self._who_can(model, own, tenant)
        return able

    def _who_can(self, model: str, own: bool, tenant: str) -> Able:
        names = [engine.name for engine in self.engines.values() if engine.model == model]
        closed = [n for n in names if n in self._closed_to and tenant not in self._closed_to[n]]
        elsewhere = [name for name in names if name in self.upstream and name not in closed]
        never = closed if own else [name for name in names if name not in elsewhere]
        left = [name for name in names if name not in never]
        forwards = bool(left) and all(isinstance(self.engines[n], Forwarder) for n in left)
        return Able(bool(elsewhere), tuple(never), forwards)

    def is_up(self, name: str) -> bool:
        return name in self._up

    async def news(self, timeout_s: float) -> None:
        """Until a worker comes up, or the time is over."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            await asyncio.wait((waiter,), timeout=timeout_s)
        finally:
            self._waiting.discard(waiter)


class Tries:
    """Which worker takes one sequence next: none twice that failed it, until it has come back."""

    def __init__(
        self,
        workers: Workers,
        model: str,
        ask: Ask,
        never: Collection[str],
        wait_s: float,
        now: Callable[[], float],
    ) -> None:
        self._workers = workers
        self._model = model
        self._ask = ask
        self._never = never
        self._left = set(never)
        self._attempts = 0
        self._now = now
        self._wait_s = wait_s
        self._last: ServeError | None = None

    async def next(self) -> Ticket:
        """A ticket for the next worker. Raises `Unavailable` when none came up in time."""
        deadline: float | None = None
        while True:
            ticket = self._workers.table.begin(self._model, self._ask, self._left)
            if ticket is not None:
                self._workers.sent(ticket.worker, self._ask.keys)
                return ticket
            now = self._now()
            deadline = now + self._wait_s if deadline is None else deadline
            if isinstance(self._last, Unavailable) and self._some_up():
                raise self._last  # all that are up are full
            if now >= deadline:
                raise self._last or Unavailable(
                    f"no worker of model {self._model!r} is up", retry_after_s=self._wait_s
                )
            await self._workers.news(min(deadline - now, _LOOK_AGAIN_S))
            if not isinstance(self._last, Unavailable):
                self._left = set(self._never)  # a worker that broke may be well again

    def failed(self, worker: str, error: Unavailable | EngineFailed) -> None:
        """A worker could not do it. Raises `error` when it has been tried often enough."""
        self._attempts += 1
        self._last = error
        self._left.add(worker)
        if self._attempts >= _ATTEMPTS:
            raise error

    def _some_up(self) -> bool:
        ready = self._workers.table.ready(self._model)
        return any(name not in self._never for name in ready)


def _nobody(worker: str, keys: Sequence[bytes]) -> None:
    """There is no other gateway to tell."""


def _kv_blocks(site: Site, worker: Worker) -> int:
    """Blocks that a worker can hold; for a server that does not say, a large cache's worth."""
    if isinstance(worker, OpenAIWorker):
        return _UNKNOWN_KV_BLOCKS
    block_bytes = ModelFiles(site, worker.model).block_bytes
    return max(1, int(worker.kv_cache_gib * 2**30) // block_bytes)
