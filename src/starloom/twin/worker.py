"""A worker of the twin: `serve.engines.batch.Scheduler` without tokens, many steps at a time.

It holds the very `BlockManager` of an engine and starts, chunks, preempts and finishes as the
engine's scheduler does; a test replays both and compares. What it adds is speed: between two
arrivals a batch that only decodes changes in no way but length, so its steps are one array.

Sans-IO: `submit` and `advance` take the time, `due_s` says when to call again.
"""

from bisect import insort
from collections import Counter

import numpy as np

from starloom.serve.engines.blocks import BlockManager, expect
from starloom.twin.timing import StepTimer

_STRETCH = 4096
KEY_BYTES = 8
"""Of a prompt's keys. Those of generated blocks, which nobody asks for, are longer."""


class Job:
    """One request on a worker. Times are None until they are known."""

    __slots__ = (
        "answer",
        "arrival",
        "blocks",
        "cached_tokens",
        "computed",
        "end_s",
        "first_s",
        "keys",
        "named",
        "number",
        "prompt",
        "prompt_keys",
        "started",
        "tokens",
        "waits_for",
    )

    def __init__(self, number: int, prompt: int, answer: int, keys: list[bytes]) -> None:
        self.number = number
        self.prompt = prompt
        self.answer = answer
        self.keys = list(keys)
        """Of full blocks: the prompt's, then generated ones' as they fill."""
        self.prompt_keys = len(keys)
        self.arrival = 0
        self.tokens = prompt
        self.computed = 0
        self.named = 0
        self.blocks: list[int] = []
        self.cached_tokens = 0
        self.started = False
        self.waits_for: bytes | None = None
        self.first_s: float | None = None
        self.end_s: float | None = None


class Blocks(BlockManager):
    """A block manager that keeps account of which keys come and go."""

    def __init__(self, num_blocks: int, block_tokens: int) -> None:
        super().__init__(num_blocks, block_tokens)
        self.gone: list[bytes] = []

    def _take_one(self) -> int:
        cached = not self._empty
        block = next(iter(self._cached)) if cached else 0
        key = self._key_of[block] if cached else None
        if key is not None and len(key) == KEY_BYTES:
            self.gone.append(key)
        return super()._take_one()


class TwinWorker:
    """Waiting and running jobs over one cache.

    `stored` and `removed` collect what changed in the cache since they were last taken out.
    """

    def __init__(
        self,
        timer: StepTimer,
        *,
        num_blocks: int,
        block_tokens: int,
        max_batch: int,
        max_batch_tokens: int,
    ) -> None:
        self.blocks = Blocks(num_blocks, block_tokens)
        self.due_s: float | None = None
        """When the present step or stretch of steps ends; None when idle."""
        self.stored: list[tuple[bytes | None, list[bytes]]] = []
        self.steps = 0
        self.busy_s = 0.0
        self._timer = timer
        self._max_batch = max_batch
        self._max_batch_tokens = max_batch_tokens
        self._waiting: list[Job] = []
        self._running: list[Job] = []
        self._in_flight: Counter[bytes] = Counter()
        self._arrivals = 0
        self._began_s = 0.0
        self._step: list[tuple[Job, int]] = []
        self._ends: np.ndarray[tuple[int], np.dtype[np.float64]] | None = None

    @property
    def removed(self) -> list[bytes]:
        return self.blocks.gone

    def submit(self, job: Job, now_s: float) -> None:
        """Queue a job. Raises ValueError where it never fits."""
        if job.prompt + job.answer > self.blocks.num_blocks * self.blocks.block_tokens:
            raise ValueError(f"a request of {job.prompt + job.answer} tokens fits no cache")
        job.arrival = self._arrivals
        self._arrivals += 1
        self._waiting.append(job)
        if self.due_s is None:
            self._begin(now_s)
        elif self._ends is not None:  # it joins after the step that runs now
            last = int(np.searchsorted(self._ends, now_s))
            if last + 1 < len(self._ends):
                self._ends = self._ends[: last + 1]
                self.due_s = float(self._ends[-1])

    def advance(self) -> tuple[list[Job], list[Job]]:
        """Finish what ends at `due_s` and begin the next; jobs with a first token, and ended."""
        now_s = self.due_s
        if now_s is None:
            raise ValueError("an idle worker has nothing to advance")
        first: list[Job] = []
        ended: list[Job] = []
        if self._ends is not None:
            self._finish_stretch(len(self._ends), now_s, ended)
        else:
            self._finish_step(now_s, first, ended)
        self.busy_s += now_s - self._began_s
        self._begin(now_s)
        return first, ended

    def check_integrity(self) -> None:
        """Raise AssertionError where jobs and blocks disagree."""
        self.blocks.check_integrity()
        held = {block for job in self._running for block in job.blocks}
        expect(len(held) == self.blocks.used, "a held block belongs to no job")
        expect(not any(job.blocks for job in self._waiting), "a waiting job holds blocks")

    def _begin(self, now_s: float) -> None:
        while (job := self._can_start()) is not None:
            self._start(job)
        self._began_s = now_s
        self._ends = None
        if not self._running:
            self.due_s = None
            return
        if all(job.tokens - job.computed == 1 and job.first_s is not None for job in self._running):
            steps, used = self._stretch()
            if steps:
                context = sum(job.computed for job in self._running)
                seconds = self._timer.decode_s(len(self._running), context, used)
                self._ends = now_s + np.cumsum(seconds)
                self.due_s = float(self._ends[-1])
                return
        self._one_step(now_s)

    def _stretch(self) -> tuple[int, np.ndarray[tuple[int], np.dtype[np.float64]]]:
        """Steps of pure decoding until a job ends or blocks run out, and blocks in use in each."""
        size, free = self.blocks.block_tokens, self.blocks.free
        steps = min(_STRETCH, *(j.prompt + j.answer - j.tokens for j in self._running))
        lengths = np.array([job.tokens for job in self._running])
        have = np.array([len(job.blocks) for job in self._running])
        # Before step i the job has `lengths + i` tokens, and needs blocks for all of them.
        while steps:
            if (np.maximum(-(-(lengths + steps - 1) // size), have) - have).sum() <= free:
                break
            steps //= 2
        needed = -(-np.add.outer(np.arange(steps), lengths) // size) - have
        used = self.blocks.used + np.maximum(needed, 0).sum(axis=1)
        return steps, used / self.blocks.num_blocks

    def _finish_stretch(self, steps: int, now_s: float, ended: list[Job]) -> None:
        self.steps += steps
        for job in self._running:
            need = self.blocks.blocks_for(job.tokens + steps - 1) - len(job.blocks)
            if need > 0:
                job.blocks += self.blocks.take(need)
            job.computed += steps
            job.tokens += steps
            self._name(job)
        for job in [job for job in self._running if job.tokens >= job.prompt + job.answer]:
            self._end(job, now_s, ended)

    def _one_step(self, now_s: float) -> None:
        for job in list(self._running):
            job.started = True
            if job.blocks:
                self._grow(job)
        ones = [job for job in self._running if job.tokens - job.computed == 1]
        more = [job for job in self._running if job.tokens - job.computed > 1]
        budget = self._max_batch_tokens
        self._step = []
        prefill: list[tuple[int, int]] = []
        decode: list[int] = []
        for job in ones + more:
            count = min(job.tokens - job.computed, budget)
            if not count:
                break
            budget -= count
            self._step.append((job, count))
            if count == 1 and job.computed:
                decode.append(job.computed)
            else:
                prefill.append((count, job.computed))
        used = self.blocks.used / self.blocks.num_blocks
        self.due_s = now_s + self._timer.step_s(prefill, decode, used)

    def _finish_step(self, now_s: float, first: list[Job], ended: list[Job]) -> None:
        self.steps += 1
        for job, count in self._step:
            job.computed += count
            self._name(job)
            if job.computed < job.tokens:
                continue
            job.tokens += 1
            if job.first_s is None:
                job.first_s = now_s
                first.append(job)
            if job.tokens >= job.prompt + job.answer:
                self._end(job, now_s, ended)
        self._step = []

    def _end(self, job: Job, now_s: float, ended: list[Job]) -> None:
        self._stop(job)
        job.end_s = now_s
        ended.append(job)

    def _can_start(self) -> Job | None:
        if not self._waiting or len(self._running) >= self._max_batch:
            return None
        if self._max_batch_tokens <= sum(job.tokens - job.computed for job in self._running):
            return None
        for job in self._waiting:
            if job.waits_for is not None and self._in_flight[job.waits_for]:
                continue
            keys = self._reusable(job)
            known = self.blocks.known_prefix(keys)
            job.waits_for = keys[len(known)] if len(known) < len(keys) else None
            if job.waits_for is not None and self._in_flight[job.waits_for]:
                continue
            fresh = self.blocks.blocks_for(job.tokens) - len(known)
            return job if self.blocks.can_take(fresh + len(self._running), known) else None
        return None

    def _start(self, job: Job) -> None:
        self._waiting.remove(job)
        insort(self._running, job, key=_order)
        known = self.blocks.known_prefix(self._reusable(job))
        self.blocks.hold(known)
        fresh = self.blocks.take(self.blocks.blocks_for(job.tokens) - len(known))
        job.blocks = known + fresh
        job.named = len(known)
        job.computed = job.named * self.blocks.block_tokens
        if not job.started:
            job.cached_tokens = job.computed
        self._in_flight.update(job.keys[job.named :])

    def _grow(self, job: Job) -> None:
        while len(job.blocks) < self.blocks.blocks_for(job.tokens):
            if self.blocks.can_take(1):
                job.blocks += self.blocks.take(1)
                return
            victim = self._running[-1]
            self._stop(victim)
            insort(self._waiting, victim, key=_order)
            if victim is job:
                return

    def _stop(self, job: Job) -> None:
        self._running.remove(job)
        for key in job.keys[job.named :]:
            self._land(key)
        self.blocks.release(job.blocks)
        job.blocks = []
        job.computed = job.named = 0

    def _name(self, job: Job) -> None:
        """Offer the blocks that are full now. Generated ones get keys that nobody asks for."""
        low, full = job.named, job.computed // self.blocks.block_tokens
        if not job.keys and job.prompt >= self.blocks.block_tokens:
            return  # reuse is off
        for index in range(low, full):
            if index < len(job.keys):
                self._land(job.keys[index])
            else:
                job.keys.append(job.number.to_bytes(KEY_BYTES) + index.to_bytes(4))
            self.blocks.name(job.blocks[index], job.keys[index])
        job.named = max(full, low)
        told = min(full, job.prompt_keys)
        if low < told:
            self.stored.append((job.keys[low - 1] if low else None, job.keys[low:told]))

    def _land(self, key: bytes) -> None:
        self._in_flight[key] -= 1
        if not self._in_flight[key]:
            del self._in_flight[key]

    def _reusable(self, job: Job) -> list[bytes]:
        """Keys of blocks that may be reused: the last token is always computed."""
        most = (job.tokens - 1) // self.blocks.block_tokens
        return job.keys if len(job.keys) <= most else job.keys[:most]


def _order(job: Job) -> int:
    return job.arrival
