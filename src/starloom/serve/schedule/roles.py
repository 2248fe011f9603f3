"""Which half each worker takes, where the mix of requests shifts: a pure controller of one model.

It is told what workers say of themselves, about once a second, and proposes to give one worker the
other half. It is slow to: a need must last, changes keep a distance, and a worker is only taken
from a half that keeps up without it. That is judged by how busy prefill and how full decode is,
which the load decides and not where workers stand, so that a change is not undone.
"""

from collections.abc import Sequence

import msgspec

from starloom.serve.schedule.table import Role


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """One worker that is up."""

    worker: str
    role: Role
    may_change: bool = False
    backlog_s: float = 0.0
    """So long it takes to compute the prompts that wait for it."""
    busy: float = 0.0
    """Share of the time since the last look in which it computed."""
    occupancy: float = 0.0
    """Share of its batch, or of its KV blocks if that is more, that decoding sequences hold."""


class RoleRules(msgspec.Struct, frozen=True, kw_only=True):
    """When roles change. Of our own choice: no source."""

    backlog_s: float = 1.0
    """Prefill is short of workers from this mean backlog on."""
    occupancy: float = 0.85
    """Decode is, from this mean occupancy on."""
    spare: float = 0.7
    """A half gives a worker only where the others would be this busy, or full, at most."""
    patience_s: float = 3.0
    """So long the need lasts before a change."""
    dwell_s: float = 15.0
    """The least time between two changes."""


class Change(msgspec.Struct, frozen=True):
    """A proposal, with words for the log."""

    worker: str
    role: Role
    why: str


class RoleControl:
    """Proposes changes. Keeps since when a half needs a worker, and when roles last changed."""

    def __init__(self, rules: RoleRules | None = None) -> None:
        self._rules = rules or RoleRules()
        self._needed: Role | None = None
        self._since_s = 0.0
        self._changed_s: float | None = None

    def propose(self, now_s: float, loads: Sequence[Load]) -> Change | None:
        """What to change now, if anything; the caller makes it so.

        Workers of both roles count on neither side. No half is left without a worker of its own.
        """
        prefill = [load for load in loads if load.role == "prefill"]
        decode = [load for load in loads if load.role == "decode"]
        change = self._wanted(prefill, decode) if prefill and decode else None
        if change is None or change.role != self._needed:
            self._needed = None if change is None else change.role
            self._since_s = now_s
        if change is None or now_s - self._since_s < self._rules.patience_s:
            return None
        if self._changed_s is not None and now_s - self._changed_s < self._rules.dwell_s:
            return None
        self._changed_s, self._needed = now_s, None
        return change

    def _wanted(self, prefill: Sequence[Load], decode: Sequence[Load]) -> Change | None:
        rules = self._rules
        backlog_s = _mean([load.backlog_s for load in prefill])
        busy = _mean([load.busy for load in prefill])
        occupancy = _mean([load.occupancy for load in decode])
        if backlog_s >= rules.backlog_s and _without_one(occupancy, decode) <= rules.spare:
            free = [(load.occupancy, load.worker) for load in decode if load.may_change]
            why = f"prefill is {backlog_s:.1f} s behind, decode {occupancy:.0%} full"
            return Change(min(free)[1], "prefill", why) if free else None
        if occupancy >= rules.occupancy and _without_one(busy, prefill) <= rules.spare:
            free = [(load.backlog_s, load.worker) for load in prefill if load.may_change]
            why = f"decode is {occupancy:.0%} full, prefill {busy:.0%} busy"
            return Change(min(free)[1], "decode", why) if free else None
        return None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _without_one(share: float, group: Sequence[Load]) -> float:
    """The same work over one worker less; infinite where none is left."""
    return share * len(group) / (len(group) - 1) if len(group) > 1 else float("inf")
