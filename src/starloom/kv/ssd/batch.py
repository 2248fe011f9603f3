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
        self._results: list[bool | None] = []

    def rest_s(self) -> float:
        return max(0.0, self._until - time.monotonic())

    def begin(self) -> Done:
        self._results.append(None)
        return partial(self._end, len(self._results) - 1)

    def wait(self) -> list[bool]:
        """What became of each job; False for one that has not ended in time."""
        with self._ended:
            self._ended.wait_for(lambda: None not in self._results, self.rest_s())
            return [result is True for result in self._results]

    def _end(self, at: int, ok: bool) -> None:
        with self._ended:
            self._results[at] = ok
            self._ended.notify_all()
