"""Threads that do disk I/O, behind a bounded queue. Full, ill or dead, it refuses at once."""

import threading
import time
from collections import deque
from collections.abc import Callable

from starloom.kv.ssd.disk import Bounce

Job = Callable[[Bounce], None]
"""Done by one of the threads; must not raise."""


class IoQueue:
    """`threads` threads and at most `depth` jobs that wait. Urgent ones (reads) go first."""

    def __init__(self, threads: int, depth: int, bounce_bytes: int, stall_s: float) -> None:
        self._depth = depth
        self._stall_s = stall_s
        self._urgent: deque[Job] = deque()
        self._others: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._began_s: dict[int, float] = {}
        """When each thread that is in a job began with it."""
        self._threads = [
            threading.Thread(
                target=self._work, args=(n, bounce_bytes), name=f"ssd-{n}", daemon=True
            )
            for n in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job, *, urgent: bool) -> bool:
        """Queue a job; False when it will not be done."""
        with self._changed:
            if self._closed or self._full() or self.why_not():
                return False
            (self._urgent if urgent else self._others).append(job)
            self._changed.notify()
        return True

    def wait_for_room(self, timeout_s: float) -> bool:
        """Until a job may be queued, but not longer than that."""
        with self._changed:
            return self._changed.wait_for(lambda: self._closed or not self._full(), timeout_s)

    def why_not(self) -> str:
        """What is wrong with the threads; empty when nothing is."""
        if not any(thread.is_alive() for thread in self._threads):
            return "all I/O threads have ended"
        began = min(list(self._began_s.values()), default=None)
        if began is not None and (stalled_s := time.monotonic() - began) > self._stall_s:
            return f"an I/O has not ended for {stalled_s:.0f} s"
        return ""

    @property
    def dead(self) -> int:
        """Threads that ended though nobody told them to."""
        return 0 if self._closed else sum(not thread.is_alive() for thread in self._threads)

    @property
    def waiting(self) -> int:
        """Jobs that no thread has begun."""
        return len(self._urgent) + len(self._others)

    def close(self, timeout_s: float) -> bool:
        """Do what is queued, then end; False when threads are still busy after that time."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        until = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _full(self) -> bool:
        return self.waiting >= self._depth

    def _work(self, number: int, bounce_bytes: int) -> None:
        bounce = Bounce(bounce_bytes)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self.waiting)
                if not self.waiting:
                    return
                job = (self._urgent or self._others).popleft()
                self._began_s[number] = time.monotonic()
                self._changed.notify_all()
            try:
                job(bounce)
            finally:
                self._began_s.pop(number, None)
