"""The newest load of every worker, and for how long it counts."""

from collections.abc import Callable
from typing import NamedTuple

from starloom.serve.base import LoadReport
from starloom.serve.signals.base import Load

STALE_AFTER = 3.0
"""Intervals without a report after which the last one no longer counts."""


class _Entry(NamedTuple):
    load: Load
    at_s: float
    every_s: float


class LoadBoard:
    """Loads by worker. `now`: a monotonic clock in seconds, injected.

    `tell` hears of each: the worker, its load, and until when that counts.
    """

    def __init__(
        self,
        now: Callable[[], float],
        tell: Callable[[str, Load, float], None] | None = None,
        *,
        stale_after: float = STALE_AFTER,
    ) -> None:
        self._now = now
        self._tell = tell
        self._stale_after = stale_after
        self._entries: dict[str, _Entry] = {}

    def put(self, worker: str, load: Load, every_s: float) -> None:
        """A load that came now; the next one is due in `every_s`."""
        now_s = self._now()
        self._entries[worker] = _Entry(load, now_s, every_s)
        if self._tell is not None:
            self._tell(worker, load, now_s + self._stale_after * every_s)

    def put_report(self, worker: str, report: LoadReport, every_s: float) -> None:
        """A report of a worker of ours."""
        self.put(worker, Load.of_report(report), every_s)

    def forget(self, worker: str) -> None:
        """The worker is lost, and what it said with it."""
        self._entries.pop(worker, None)

    def fresh(self, worker: str) -> Load | None:
        """What the worker said last; None when that is too old, or it never said anything.

        None means: count by what the gateway itself sent there.
        """
        entry = self._entries.get(worker)
        if entry is None or self._now() - entry.at_s > self._stale_after * entry.every_s:
            return None
        return entry.load

    def age_s(self, worker: str) -> float | None:
        """Seconds since the last load; None when none came."""
        entry = self._entries.get(worker)
        return None if entry is None else self._now() - entry.at_s
