"""When requests have to be over: one timer for all, since one each costs more than its use."""

import asyncio
from collections.abc import Callable

_TICK_S = 0.05


class Deadlines:
    """Cancels tasks that take longer than `limit_s`. All have the same limit, so order is time."""

    def __init__(self, limit_s: float, now: Callable[[], float]) -> None:
        self._limit_s = limit_s
        self._now = now
        self._tick_s = min(_TICK_S, limit_s / 4)
        self._due: dict[asyncio.Task[object], float] = {}
        self._late: set[asyncio.Task[object]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> asyncio.Task[object]:
        """The running task is watched until `end`."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  only tasks call this
        self._due[task] = self._now() + self._limit_s
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._tick_s, self._tick)
        return task

    def end(self, task: asyncio.Task[object]) -> bool:
        """The task is watched no more; whether it was cancelled for being late."""
        self._due.pop(task, None)
        if task not in self._late:
            return False
        self._late.discard(task)
        return True

    def _tick(self) -> None:
        now = self._now()
        while self._due:
            task, due = next(iter(self._due.items()))
            if due > now:
                break
            del self._due[task]
            self._late.add(task)
            task.cancel()
        self._timer = None
        if self._due:
            self._timer = asyncio.get_running_loop().call_later(self._tick_s, self._tick)
