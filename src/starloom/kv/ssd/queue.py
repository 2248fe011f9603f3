"""Threads that do disk I/O, behind a bounded queue. Full, ill or dead, it refuses at once."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, Self, TypeVar

RUN_BLOCKS, RUN_BYTES = 128, 2 << 20
"""Jobs that follow one another are done together up to this: large enough that Python's share is
small, small enough that all threads have something to do. Each takes 2 or 3 of IOV_MAX (1024)."""


class Job(Protocol):
    """Something to do, perhaps together with the next ones."""

    @property
    def size(self) -> int:
        """Bytes that it moves."""

    def leads(self, other: Self) -> bool:
        """Whether `other` may be done in one go right behind it."""


J = TypeVar("J", bound=Job)


class IoQueue(Generic[J]):
    """`threads` threads and at most `depth` jobs that wait. Urgent ones (reads) go first."""

    def __init__(
        self,
        threads: int,
        depth: int,
        stall_s: float,
        worker: Callable[[], Callable[[Sequence[J]], None]],
    ) -> None:
        """`worker` makes, for each thread, what does a run of jobs; that must not raise."""
        self._depth = depth
        self._stall_s = stall_s
        self._urgent: deque[J] = deque()
        self._others: deque[J] = deque()
        lock = threading.Lock()
        self._work_came, self._room_came = threading.Condition(lock), threading.Condition(lock)
        self._closed = False
        self._began_s: dict[int, float] = {}
        """When each thread that is in a job began with it."""
        self._threads = [
            threading.Thread(target=self._work, args=(n, worker()), name=f"ssd-{n}", daemon=True)
            for n in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, jobs: Sequence[J], *, urgent: bool) -> int:
        """Queue jobs; how many leading ones will be done."""
        with self._work_came:
            taken = 0 if self._closed or self.why_not() else min(self.room, len(jobs))
            (self._urgent if urgent else self._others).extend(jobs[:taken])
            self._work_came.notify(taken)
        return taken

    @property
    def room(self) -> int:
        """Jobs that may be queued now."""
        return max(0, self._depth - self.waiting)

    def wait_for_room(self, timeout_s: float) -> int:
        """Jobs that may be queued; waits for the first place, but not longer than that."""
        with self._room_came:
            self._room_came.wait_for(lambda: self._closed or self.room, timeout_s)
            return 0 if self._closed else self.room

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
        with self._work_came:
            self._closed = True
            self._work_came.notify_all()
            self._room_came.notify_all()
        until = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(self, number: int, work: Callable[[Sequence[J]], None]) -> None:
        while True:
            with self._work_came:
                self._work_came.wait_for(lambda: self._closed or self.waiting)
                if not self.waiting:
                    return
                run = _run(self._urgent or self._others)
                self._began_s[number] = time.monotonic()
                self._room_came.notify_all()
            try:
                work(run)
            finally:
                self._began_s.pop(number, None)


def _run(queue: deque[J]) -> list[J]:
    """Take the first job, and those behind it that go with it."""
    run = [queue.popleft()]
    size = run[0].size
    while queue and len(run) < RUN_BLOCKS and run[-1].leads(queue[0]):
        size += queue[0].size
        if size > RUN_BYTES:
            break
        run.append(queue.popleft())
    return run
