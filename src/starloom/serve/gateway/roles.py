"""Roles of workers of ours at run time: what they say is what the table has, and one gateway leads.

A worker keeps the role that it was last given and tells it in its reports, so that every gateway
process follows, and a change needs no restart: our engines can do both halves.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol, runtime_checkable

from starloom.serve.base import LoadReport
from starloom.serve.gateway.workers import Workers
from starloom.serve.schedule import Role
from starloom.serve.schedule.roles import Load, RoleControl
from starloom.site import EmbeddedWorker, EmulatedWorker, Site

_log = logging.getLogger(__name__)

_EVERY_S = 1.0
_TOLD_S = 2.0
"""So long a worker may go on to report the role that it had."""


@runtime_checkable
class TakesRoles(Protocol):
    """An engine that can be given a role."""

    def take_role(self, role: Role) -> None: ...


class RoleKeeper:
    """Looks once a second. `leads`: whether this process proposes changes, or follows alone."""

    def __init__(
        self, site: Site, workers: Workers, now: Callable[[], float], *, leads: bool = True
    ) -> None:
        ours = (EmbeddedWorker, EmulatedWorker)
        self._site = {
            worker.name: worker
            for worker in site.workers
            if isinstance(worker, ours) and site.hands_over(worker.model)
        }
        self._workers = workers
        self._now = now
        self._leads = leads
        self._roles: dict[str, Role] = {name: worker.role for name, worker in self._site.items()}
        self._changed_s: dict[str, float] = {}
        self._seen: dict[str, tuple[float, LoadReport]] = {}
        self._tokens_per_s: dict[str, float] = {}
        """Of prefill, by worker, as last seen."""
        changing = {worker.model for worker in self._site.values() if worker.roles_may_change}
        self._controls = {model: RoleControl() for model in sorted(changing)}

    @property
    def needed(self) -> bool:
        """Whether there is anything to look at."""
        return bool(self._controls)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            self.look()

    def look(self) -> None:
        """Follow what workers say, and change what is to be changed."""
        now_s = self._now()
        loads: dict[str, list[Load]] = {model: [] for model in self._controls}
        for name, worker in self._site.items():
            if not self._workers.is_up(name):
                self._seen.pop(name, None)
                continue
            report = self._workers.engines[name].report()
            if report.kv_blocks:  # it has reported
                self._follow(name, report.role, now_s)
                if worker.model in loads:
                    loads[worker.model].append(self._load(worker, report, now_s))
        if self._leads:
            for model, control in self._controls.items():
                change = control.propose(now_s, loads[model])
                if change is not None:
                    self._change(change.worker, change.role, change.why, now_s)

    def _follow(self, name: str, role: Role, now_s: float) -> None:
        told_s = self._changed_s.get(name)
        if role != self._roles[name] and (told_s is None or now_s - told_s > _TOLD_S):
            self._roles[name] = role
            self._workers.table.set_role(name, role)

    def _change(self, name: str, role: Role, why: str, now_s: float) -> None:
        engine = self._workers.engines[name]
        if isinstance(engine, TakesRoles):
            _log.info("worker %s takes the role %s: %s", name, role, why)
            engine.take_role(role)
            self._roles[name], self._changed_s[name] = role, now_s
            self._workers.table.set_role(name, role)

    def _load(
        self, worker: EmbeddedWorker | EmulatedWorker, report: LoadReport, now_s: float
    ) -> Load:
        name = worker.name
        before_s, before = self._seen.get(name, (now_s, report))
        self._seen[name] = now_s, report
        busy_s = report.busy_s_total - before.busy_s_total
        computed = _computed(report) - _computed(before)
        if busy_s > 0 and computed > 0 and self._roles[name] == "prefill":
            self._tokens_per_s[name] = computed / busy_s
        rates = self._tokens_per_s
        rate = rates.get(name) or max(rates.values(), default=float("inf"))
        used = report.kv_blocks_used - report.kv_blocks_arriving
        return Load(
            worker=name,
            role=self._roles[name],
            may_change=worker.roles_may_change,
            backlog_s=report.waiting_tokens / rate,
            busy=min(busy_s / (now_s - before_s), 1.0) if now_s > before_s else 0.0,
            # Without those that wait for prefill, which would make its lack look like decode's.
            occupancy=max(report.running / worker.max_batch, used / report.kv_blocks),
        )


def _computed(report: LoadReport) -> int:
    """Prompt tokens that were computed, not reused."""
    return report.prompt_tokens_total - report.cached_tokens_total
