"""The workers behind the gateway: which are up, and which one is tried next."""

import asyncio
import random
import time
from collections.abc import Callable, Collection, Sequence
from typing import Literal, NamedTuple

from starloom.serve.base import Engine
from starloom.serve.engines import Forwarder
from starloom.serve.errors import Busy, EngineFailed, ServeError, Unavailable
from starloom.serve.models import ModelFiles
from starloom.serve.schedule import (
    POLICIES,
    Ask,
    Breakers,
    Half,
    Permit,
    Ticket,
    WorkerTable,
)
from starloom.serve.signals import Load
from starloom.site import OpenAIWorker, Site, Worker

_ATTEMPTS = 3
_LOOK_AGAIN_S = 0.25
_UNKNOWN_KV_BLOCKS = 1 << 16
Disagg = Literal["vllm", "sglang"]


class Able(NamedTuple):
    """Workers that can take a request."""

    upstream: bool
    """Whether one of them wants the client's own body."""
    never: Collection[str]
    """Those of the model that cannot. True for as long as it is kept: workers come and go."""
    elsewhere: bool = False
    """Whether all that can are servers elsewhere, so that bodies and answers pass as they are."""
    disagg: Disagg | None = None
    """How servers elsewhere that compute halves of its requests hand KV over."""


class Workers:
    """Engines by name, and the table that the schedule reads."""

    def __init__(
        self, site: Site, engines: Sequence[Engine], breakers: Breakers | None = None
    ) -> None:
        self.engines: dict[str, Engine] = {}
        self.breakers = breakers or Breakers(site.breaker, time.monotonic, random.random)
        self._site = site
        told = any(isinstance(w, OpenAIWorker) and w.kv_events for w in site.workers)
        self.table = WorkerTable(POLICIES[site.schedule.policy], exact=told)
        self.upstream: set[str] = set()
        """Workers that take the client's own body."""
        self.sent: Callable[[str, Sequence[bytes]], None] = _nobody
        """Told of each request that goes to a worker: its name, and the prompt's keys."""
        self._up: set[str] = set()
        self._able: dict[tuple[str, bool, str], Able] = {}
        self._closed_to: dict[str, Collection[str]] = {}
        """Workers that take only some tenants' requests."""
        self.halves: dict[str, Disagg] = {}
        """Servers elsewhere that compute halves, and how they hand KV over."""
        self.draining: set[str] = set()
        """Workers that get nothing new."""
        self._waiting: set[asyncio.Future[None]] = set()
        for engine in engines:
            self.join(engine, site.worker(engine.name))

    def join(self, engine: Engine, worker: Worker) -> None:
        """A worker is one of ours from now on. Its name is no other's."""
        name, exact = worker.name, False
        self.engines[name] = engine
        if isinstance(worker, OpenAIWorker):
            exact = worker.kv_events is not None
            self.upstream.add(name)
            if worker.tenants:
                self._closed_to[name] = worker.tenants
            if worker.disagg is not None:
                self.halves[name] = worker.disagg
        blocks = _kv_blocks(self._site, worker)
        self.table.add(name, engine.model, blocks, worker.role, exact=exact)
        self._look_again()
        if engine.ready:
            self.up(name)

    def leave(self, name: str) -> None:
        """A worker is gone for good, with its row, its counts and what it held."""
        del self.engines[name]
        self._up.discard(name)
        self.upstream.discard(name)
        self.draining.discard(name)
        self._closed_to.pop(name, None)
        self.halves.pop(name, None)
        self.breakers.forget(name)
        self.table.remove(name)
        self._look_again()

    def drain(self, name: str, *, draining: bool) -> None:
        """A worker gets nothing new, until it is to get some again. What it has, it keeps."""
        if draining:
            self.draining.add(name)
        else:
            self.draining.discard(name)
        self.table.drain(name, draining=draining)
        self._wake()

    def up(self, name: str) -> None:
        """A worker takes requests."""
        self._up.add(name)
        self.table.up(name)
        if name not in self.upstream:
            self.breakers.forget(name)  # a process of ours that comes up is a new one
        self._wake()

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

    def _look_again(self) -> None:
        """Workers came or went: what was said of who can take what is put right where it is."""
        for key, able in self._able.items():
            now = self._who_can(*key)
            if isinstance(able.never, set):
                able.never.clear()
                able.never.update(now.never)
                self._able[key] = now._replace(never=able.never)

    def _wake(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    def _who_can(self, model: str, own: bool, tenant: str) -> Able:
        names = [engine.name for engine in self.engines.values() if engine.model == model]
        closed = [n for n in names if n in self._closed_to and tenant not in self._closed_to[n]]
        elsewhere = [name for name in names if name in self.upstream and name not in closed]
        never = closed if own else [name for name in names if name not in elsewhere]
        left = [name for name in names if name not in never]
        if not (left if own else names):  # who can may yet join, and is a server elsewhere then
            return Able(upstream=True, never=set(never), elsewhere=True)
        forwards = bool(left) and all(isinstance(self.engines[n], Forwarder) for n in left)
        disagg = next((self.halves[name] for name in left if name in self.halves), None)
        return Able(bool(elsewhere), set(never), forwards, disagg)

    def never_whole(self) -> list[str]:
        """Workers that compute halves only: those of SGLang refuse a request without a room."""
        return [name for name, disagg in self.halves.items() if disagg == "sglang"]

    def told_load(self, name: str, load: Load, until_s: float) -> None:
        """A server elsewhere says how busy it is."""
        self.table.told_load(name, load.running, load.waiting, until_s)

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
        half: Half = "whole",
        *,
        bodiless: bool = False,
    ) -> None:
        """`bodiless`: there is no client's body to send to a server elsewhere that joins."""
        self._workers = workers
        self._bodiless = bodiless
        self._model = model
        self._ask = ask
        self.half: Half = half
        self._never = never
        self._failed: set[str] = set()
        self._permit: Permit | None = None
        self._attempts = 0
        self._now = now
        self._wait_s = wait_s
        self._last: ServeError | None = None

    async def next(self) -> Ticket:
        """A ticket for the next worker. Raises `Unavailable` when none came up in time."""
        deadline: float | None = None
        while True:
            ticket = self.at_once()
            if ticket is not None:
                return ticket
            now = self._now()
            deadline = now + self._wait_s if deadline is None else deadline
            if isinstance(self._last, Unavailable) and self._some_up():
                raise self._last  # all that are up are full
            if now >= deadline:
                who = "worker" if self.half == "whole" else f"{self.half} worker"
                raise self._last or Unavailable(
                    f"no {who} of model {self._model!r} is up", retry_after_s=self._wait_s
                )
            await self._workers.news(min(deadline - now, _LOOK_AGAIN_S))
            if not isinstance(self._last, Unavailable):
                self._failed.clear()  # a worker that broke may be well again

    def some(self) -> bool:
        """Whether there is a next worker now."""
        return self._workers.table.takes(self._model, self._refused(), self.half)

    def at_once(self) -> Ticket | None:
        """A ticket for the next worker; None where there is none now."""
        ticket = self._begin()
        if ticket is not None:
            ticket.permit = self._permit = self._workers.breakers.of(ticket.worker).begin()
            self._workers.sent(ticket.worker, self._ask.keys)
        return ticket

    def failed(
        self, worker: str, error: Unavailable | EngineFailed, *, begun: bool = False
    ) -> None:
        """A worker could not do it. Raises `error` when it has been tried often enough.

        `begun`: the client was sent a part, so that nothing can be tried again.
        """
        if self._permit is not None and not isinstance(error, Busy):
            self._permit.failed()
        self._attempts += 1
        self._last = error
        self._failed.add(worker)
        if begun or self._attempts >= _ATTEMPTS:
            raise error

    def _begin(self) -> Ticket | None:
        """A ticket for a worker that is well; where breakers leave none, for one of the least bad.

        So requests are never refused for an open breaker's sake.
        """
        model, ask, half = self._model, self._ask, self.half
        table, breakers = self._workers.table, self._workers.breakers
        refused = self._refused()
        if shut := breakers.shut():
            ticket = table.begin(model, ask, {*refused, *shut}, half)
            if ticket is not None:
                return ticket
            left = [view.name for view in table.views(ask, model, refused, half)]
            refused = {*refused, *left}.difference(breakers.least_bad(left))
        return table.begin(model, ask, refused, half)

    def _refused(self) -> Collection[str]:
        """Workers that cannot take it, as things are now, or have failed it."""
        never = self._never
        if self.half == "whole" and self._workers.halves:
            never = {*never, *self._workers.never_whole()}
        if self._bodiless and self._workers.upstream:
            never = {*never, *self._workers.upstream}
        return {*self._failed, *never} if never else self._failed

    def _some_up(self) -> bool:
        ready = self._workers.table.ready(self._model)
        refused = {*self._refused()} - self._failed
        return any(name not in refused for name in ready)


def _nobody(worker: str, keys: Sequence[bytes]) -> None:
    """There is no other gateway to tell."""


def _kv_blocks(site: Site, worker: Worker) -> int:
    """Blocks that a worker can hold; for a server that does not say, a large cache's worth."""
    if isinstance(worker, OpenAIWorker):
        return _UNKNOWN_KV_BLOCKS
    block_bytes = ModelFiles(site, worker.model).block_bytes
    return max(1, int(worker.kv_cache_gib * 2**30) // block_bytes)
