"""Workers that come and go while the gateway runs.

What should be there is stated by sources (a file, DNS names) and by the admin API; what is there is
made to agree with it, again and again: a worker that should not be there any more gets nothing new,
finishes what it has, and leaves. One that should be otherwise leaves first, and joins anew.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from pydantic import ValidationError

from starloom.serve.engines import WatchedEngine
from starloom.serve.gateway.changes import Changes
from starloom.serve.gateway.sources import Source
from starloom.serve.gateway.workers import Workers
from starloom.serve.schedule import State
from starloom.serve.signals import Signals
from starloom.serve.signals.errors import SignalError
from starloom.site import BadNames, OpenAIWorker, Site, Worker

_log = logging.getLogger(__name__)

_LOOK_S = 0.05
_REFUSED = 1024
ADMIN, SITE = "admin", "site"
KEY_PREFIX = "STARLOOM_KEY_"


class WorkerState(msgspec.Struct, kw_only=True):
    """One worker as one gateway process sees it."""

    name: str
    model: str
    engine: str
    url: str | None
    """None for a process of ours."""
    source: str
    """Where it is stated: `site`, `file`, `dns:` and the template's name, or `admin`."""
    up: bool
    draining: bool
    leaving: bool
    """Whether it goes once it has nothing under way."""
    breaker: State
    outstanding: int
    """Requests under way, of all gateways."""


class _Wanted(NamedTuple):
    noun: OpenAIWorker
    source: str


class _Member:
    """A worker that joined at run time."""

    def __init__(self, noun: OpenAIWorker, source: str, engine: WatchedEngine) -> None:
        self.noun = noun
        self.source = source
        self.engine = engine
        self.leave = asyncio.Event()
        """Set while it should go."""
        self.drain_s = 0.0
        self.task: asyncio.Task[None] | None = None


class Members:
    """`make` gives the engine of a worker; `on_up` is told what came up. `now` is monotonic."""

    def __init__(
        self,
        site: Site,
        workers: Workers,
        signals: Signals,
        changes: Changes,
        sources: Sequence[Source],
        *,
        make: Callable[[OpenAIWorker], WatchedEngine],
        on_up: Callable[[str], None],
        now: Callable[[], float],
    ) -> None:
        self.sources = sources
        self.changes = changes
        self._site = site
        self._static = {worker.name for worker in site.workers}
        self._workers = workers
        self._signals = signals
        self._make = make
        self._on_up = on_up
        self._now = now
        self._stated: dict[str, Sequence[OpenAIWorker]] = {}
        self._members: dict[str, _Member] = {}
        self._refused: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._open = False

    async def start(self) -> None:
        """Begin to look at each source. Returns at once."""
        self._open = True
        self.changes.changed = self.settle
        self.settle()
        self._tasks = [asyncio.create_task(self._watch(source)) for source in self.sources]

    async def close(self) -> None:
        """All that joined go at once."""
        self._open = False
        tasks = [*self._tasks, *(m.task for m in self._members.values() if m.task is not None)]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def source(self, name: str) -> str:
        """Where a worker is stated, as in `WorkerState`."""
        member = self._members.get(name)
        return SITE if member is None else member.source

    def noun(self, name: str) -> Worker:
        """The worker as it was stated. KeyError for none."""
        member = self._members.get(name)
        return self._site.worker(name) if member is None else member.noun

    def leaving(self, name: str) -> bool:
        """Whether it goes once it is done."""
        member = self._members.get(name)
        return member is not None and member.leave.is_set()

    def state(self, name: str) -> WorkerState:
        """A worker that is there."""
        return self._state(name, self._workers.table.outstanding())

    def states(self) -> list[WorkerState]:
        """All workers, in the order in which they came."""
        outstanding = self._workers.table.outstanding()
        return [self._state(name, outstanding) for name in self._workers.engines]

    def _state(self, name: str, outstanding: Mapping[str, int]) -> WorkerState:
        noun, workers = self.noun(name), self._workers
        return WorkerState(
            name=name,
            model=noun.model,
            engine=noun.engine,
            url=noun.url if isinstance(noun, OpenAIWorker) else None,
            source=self.source(name),
            up=workers.is_up(name),
            draining=name in workers.draining,
            leaving=self.leaving(name),
            breaker=workers.breakers.of(name).state,
            outstanding=outstanding.get(name, 0),
        )

    def may_send(self, key_env: str) -> bool:
        """Whether a worker that the API adds may be sent this variable: not any secret of ours."""
        stated = [*self._site.workers, *(found.worker for found in self._site.discover)]
        known = {worker.key_env for worker in stated if isinstance(worker, OpenAIWorker)}
        return key_env in known or key_env.startswith(KEY_PREFIX)

    def check(self, noun: OpenAIWorker) -> None:
        """Whether the site can have the worker beside those that it has. Raises `BadNames`."""
        others = [member.noun for member in self._members.values()]
        self._site.with_workers([*self._site.workers, *others, noun])

    def settle(self) -> None:
        """Begin whatever makes what is there agree with what should be."""
        if not self._open:
            return
        wanted = self._wanted()
        for name, member in self._members.items():
            want = wanted.get(name)
            if want is not None and want.noun == member.noun:
                member.source = want.source
                member.leave.clear()
            elif not member.leave.is_set():
                member.drain_s = self._drain_s(name, member.source)
                member.leave.set()
                _log.info("worker %s drains, and leaves", name)
        for name, want in wanted.items():
            if name not in self._members:
                self._join(want)
        for name in self._workers.engines:
            word = self.changes.words.get(name)
            draining = self.leaving(name) or (word is not None and word.draining)
            if draining != (name in self._workers.draining):
                self._workers.drain(name, draining=draining)

    def _wanted(self) -> dict[str, _Wanted]:
        """What should be there besides the site's own workers. Who is named first has the name."""
        stated = [
            (source.name, noun)
            for source in self.sources
            for noun in self._stated.get(source.name, ())
        ]
        for name, word in sorted(self.changes.words.items()):
            if word.worker is not None:
                stated += [(ADMIN, noun) for noun in self._read(name, word.worker)]
        wanted: dict[str, _Wanted] = {}
        for source, noun in stated:
            if noun.name in self._static or noun.name in wanted:
                self._refuse(f"worker {noun.name} of {source}: the name is taken")
            else:
                wanted[noun.name] = _Wanted(noun, source)
        return wanted

    def _read(self, name: str, stated: dict[str, Any]) -> list[OpenAIWorker]:
        """A noun that a gateway of this site took; none where our site file is another."""
        try:
            noun = OpenAIWorker.model_validate({**stated, "name": name})
            self._site.with_workers([*self._site.workers, noun])
        except (ValidationError, BadNames) as error:
            self._refuse(f"worker {name} of another gateway cannot join here: {error}")
            return []
        return [noun]

    def _refuse(self, what: str) -> None:
        if what not in self._refused:
            if len(self._refused) >= _REFUSED:
                self._refused.clear()
            self._refused.add(what)
            _log.error("%s", what)

    def _drain_s(self, name: str, source: str) -> float:
        word = self.changes.words.get(name)
        if source == ADMIN and word is not None:
            return word.drain_s
        stated = next((one.drain_s for one in self.sources if one.name == source), None)
        return self._site.gateway.limits.request_timeout_s if stated is None else stated

    def _join(self, want: _Wanted) -> None:
        engine = self._make(want.noun)
        engine.on_up, engine.on_down = self._on_up, self._workers.down
        member = _Member(want.noun, want.source, engine)
        self._members[want.noun.name] = member
        self._workers.join(engine, want.noun)
        _log.info("worker %s joins, of %s", want.noun.name, want.source)
        member.task = asyncio.create_task(self._live(member), name=f"member {want.noun.name}")

    async def _live(self, member: _Member) -> None:
        """A member's life, from its first connection to its last."""
        name = member.noun.name
        try:
            try:
                await self._signals.join(member.noun)
            except SignalError as error:  # a signal that fails is a signal that is missing
                _log.error("%s", error)
            await member.engine.start()
            await self._until_dry(member)
        finally:
            await self._signals.leave(name)
            await member.engine.close()
            self._workers.leave(name)
            del self._members[name]
            _log.info("worker %s has left", name)
        self.settle()

    async def _until_dry(self, member: _Member) -> None:
        """Until it should go, and has nothing of ours under way, or has had its time."""
        while True:
            await member.leave.wait()
            until_s = self._now() + member.drain_s
            while member.leave.is_set():
                if not self._workers.table.under_way(member.noun.name) or self._now() >= until_s:
                    return
                await asyncio.sleep(_LOOK_S)

    async def _watch(self, source: Source) -> None:
        while True:
            found = await source.look()
            if found is not None:
                self._stated[source.name] = found
                self.settle()
            await asyncio.sleep(source.every_s)
