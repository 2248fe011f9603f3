"""Waiting for several jobs at once."""

import threading
import time
from functools import partial

from starloom.kv.ssd.base import Done


class Batch:
    """The ends of several jobs, waited for until a time."""

    def __init__(self, timeout_s: float) -> None:
        self._until = time.monotonic() + timeout_s
        self._ended = threading.Condition()
        self._results: list[bool] = []
        self._pending = 0

    def rest_s(self) -> float:
        return max(0.0, self._until - time.monotonic())

    def begin(self) -> Done:
        with self._ended:
            self._results.append(False)
            self._pending += 1
            return partial(self._end, len(self._results) - 1)

    def wait(self) -> list[bool]:
        """What became of each job; False for one that has not ended in time."""
        with self._ended:
            self._ended.wait_for(lambda: not self._pending, self.rest_s())
            return list(self._results)

    def _end(self, at: int, ok: bool) -> None:
        with self._ended:
            self._results[at] = ok
            self._pending -= 1
            if not self._pending:  # not at each end: waking the waiter costs more than a page
                self._ended.notify()
