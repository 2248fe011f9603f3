"""Replays a trace in simulated time: the gateway's worker table and policy, over emulated workers.

Deterministic: times are floats that come out of the same operations in the same order, and events
of one time are taken workers first, in the order of their numbers, then arrivals.
"""

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from starloom.serve.errors import Throttled
from starloom.serve.peers.base import Counts, Spent
from starloom.serve.peers.board import Board
from starloom.serve.schedule import Ask, Policy, Ticket, WorkerTable
from starloom.twin.timing import StepTimer
from starloom.twin.trace import Request
from starloom.twin.worker import Job, TwinWorker


@dataclass(frozen=True, slots=True)
class Workers:
    """How many workers of one kind. The defaults are those of Dynamo's mocker."""

    count: int
    timer: StepTimer
    num_blocks: int = 16384
    block_tokens: int = 64
    max_batch: int = 256
    max_batch_tokens: int = 8192


@dataclass(frozen=True, slots=True)
class Record:
    """What became of one request. `worker` is None where it was shed."""

    number: int
    worker: int | None
    at_s: float
    first_s: float
    end_s: float
    prompt_tokens: int
    cached_tokens: int
    answer_tokens: int


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures of a replay. Times are over the requests that were served."""

    ttft_mean_ms: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    itl_mean_ms: float
    """Time between tokens, every gap counted alike."""
    e2e_mean_ms: float
    hit_pct: float
    """Prompt tokens that were reused."""
    success_pct: float


@dataclass(slots=True)
class Replay:
    """Records in the order of the trace."""

    records: list[Record] = field(default_factory=list)
    steps: int = 0
    busy_s: float = 0.0

    def summary(self) -> Summary:
        """Raises ValueError where no request was served."""
        served = [record for record in self.records if record.worker is not None]
        if not served:
            raise ValueError("no request was served")
        ttft_ms = np.array([1000 * (r.first_s - r.at_s) for r in served])
        gaps = sum(r.answer_tokens - 1 for r in served)
        return Summary(
            ttft_mean_ms=float(ttft_ms.mean()),
            ttft_p50_ms=float(np.percentile(ttft_ms, 50)),
            ttft_p99_ms=float(np.percentile(ttft_ms, 99)),
            itl_mean_ms=1000 * sum(r.end_s - r.first_s for r in served) / max(gaps, 1),
            e2e_mean_ms=1000 * sum(r.end_s - r.at_s for r in served) / len(served),
            hit_pct=100
            * sum(r.cached_tokens for r in served)
            / sum(r.prompt_tokens for r in served),
            success_pct=100 * len(served) / len(self.records),
        )


def replay(
    trace: Sequence[Request],
    workers: Workers,
    policy: Callable[[], Policy],
    *,
    speedup: float = 1.0,
    exact: bool = True,
    check: bool = False,
    gateways: int = 1,
    told_every_s: float = 0.002,
) -> Replay:
    """Send a trace's requests, `speedup` times as fast as they came, and wait for all to end.

    `exact`: workers tell the table what they store and evict, else it goes by what it sent.
    `check`: verify the books of every worker after each of its events (slow). With several
    `gateways` requests take turns among them; each has a table of its own and hears every
    `told_every_s` what the others did (`serve.peers`; infinity: never).
    """
    ticks = _Ticks(told_every_s)
    return _Loop(trace, workers, policy, speedup, gateways, ticks, exact=exact, check=check).run()


class _Shared:
    """A table as the `peers.View` of a gateway without tenants."""

    def __init__(self, table: WorkerTable) -> None:
        self._table = table
        self.seen = table.sent

    def own(self) -> Mapping[str, Counts]:
        return {name: Counts(*counts) for name, counts in self._table.own().items()}

    def changed(self) -> Mapping[str, Counts]:
        return {name: Counts(*counts) for name, counts in self._table.changed().items()}

    def others(self, worker: str, counts: Counts) -> None:
        self._table.others(worker, counts)

    def spent(self) -> Mapping[str, Spent]:
        return {}

    def others_spent(self, tenant: str, more: Spent) -> None:
        raise NotImplementedError(f"tenant {tenant} spent {more}, and there are no tenants")


class _Ticks:
    """Instants at which gateways tell each other."""

    def __init__(self, every_s: float) -> None:
        self.every_s = every_s
        self._last = 0

    def before(self, now_s: float) -> float | None:
        """The last one up to `now_s`, where that is new."""
        number = int(now_s / self.every_s)
        if number <= self._last:
            return None
        self._last = number
        return number * self.every_s


class _Loop:
    def __init__(
        self,
        trace: Sequence[Request],
        workers: Workers,
        policy: Callable[[], Policy],
        speedup: float,
        gateways: int,
        ticks: "_Ticks",
        *,
        exact: bool,
        check: bool,
    ) -> None:
        self._trace = trace
        self._speedup = speedup
        self._exact = exact
        self._check = check
        self._block_tokens = workers.block_tokens
        self._ticks = ticks
        self._tables = [WorkerTable(policy, exact=exact) for _ in range(gateways)]
        self._workers: list[TwinWorker] = []
        self._names: list[str] = []
        for number in range(workers.count):
            name = f"w{number:04d}"
            self._names.append(name)
            for table in self._tables:
                table.add(name, "m", workers.num_blocks)
                table.up(name)
            self._workers.append(
                TwinWorker(
                    workers.timer,
                    num_blocks=workers.num_blocks,
                    block_tokens=workers.block_tokens,
                    max_batch=workers.max_batch,
                    max_batch_tokens=workers.max_batch_tokens,
                )
            )
        self._number = {name: number for number, name in enumerate(self._names)}
        self._tickets: dict[int, Ticket] = {}
        self._records: list[Record | None] = [None] * len(trace)
        self._due: list[tuple[float, int]] = []
        self._boards: list[Board] = []
        if gateways > 1 and ticks.every_s < float("inf"):
            self._boards = [Board(str(at), _Shared(table)) for at, table in enumerate(self._tables)]
            self._exchange([board.all() for board in self._boards], 0.0)

    def run(self) -> Replay:
        for number, request in enumerate(self._trace):
            now_s = request.at_s / self._speedup
            if self._boards and (tick_s := self._ticks.before(now_s)) is not None:
                self._until(tick_s)
                self._exchange([board.news() for board in self._boards], tick_s)
            self._until(now_s)
            self._arrive(number, request, now_s)
        self._until(float("inf"))
        records = [record for record in self._records if record is not None]
        if len(records) != len(self._trace):
            raise AssertionError(f"{len(self._trace) - len(records)} requests never ended")
        return Replay(
            records,
            steps=sum(worker.steps for worker in self._workers),
            busy_s=sum(worker.busy_s for worker in self._workers),
        )

    def _exchange(self, frames: Sequence[bytes | None], now_s: float) -> None:
        """Gateways tell each other; frames are by gateway, and take no time."""
        for teller, frame in enumerate(frames):
            for at, board in enumerate(self._boards):
                if at != teller and frame is not None:
                    board.take(frame, now_s)

    def _until(self, now_s: float) -> None:
        """All that workers do up to and at a time."""
        due = self._due
        while due and due[0][0] <= now_s:
            at_s, number = heapq.heappop(due)
            worker = self._workers[number]
            if worker.due_s != at_s:
                continue  # an arrival changed it since
            first, ended = worker.advance()
            self._tell(number)
            for job in first:
                self._tickets[job.number].first_token(at_s)
            for job in ended:
                self._end(number, job, at_s)
            if worker.due_s is not None:
                heapq.heappush(due, (worker.due_s, number))

    def _arrive(self, number: int, request: Request, now_s: float) -> None:
        ask = Ask(
            prompt_tokens=request.prompt_tokens,
            keys=request.keys,
            block_tokens=self._block_tokens,
            now_s=now_s,
        )
        try:
            ticket = self._tables[number % len(self._tables)].begin("m", ask)
        except Throttled:
            self._records[number] = Record(
                number, None, now_s, now_s, now_s, request.prompt_tokens, 0, 0
            )
            return
        if ticket is None:
            raise AssertionError("all workers are up, and none was chosen")
        if self._boards:
            self._boards[number % len(self._boards)].sent(ticket.worker, request.keys)
        self._tickets[number] = ticket
        chosen = self._number[ticket.worker]
        worker = self._workers[chosen]
        before = worker.due_s
        job = Job(number, request.prompt_tokens, request.answer_tokens, request.keys)
        worker.submit(job, now_s)
        self._tell(chosen)
        if worker.due_s is not None and worker.due_s != before:
            heapq.heappush(self._due, (worker.due_s, chosen))

    def _tell(self, number: int) -> None:
        worker = self._workers[number]
        if self._check:
            worker.check_integrity()
        if worker.removed:
            if self._exact:
                for table in self._tables:
                    table.removed(self._names[number], worker.removed)
            worker.removed.clear()
        if worker.stored:
            if self._exact:
                for table in self._tables:
                    for parent, keys in worker.stored:
                        table.stored(self._names[number], parent, keys)
            worker.stored.clear()

    def _end(self, number: int, job: Job, now_s: float) -> None:
        self._tickets.pop(job.number).end(now_s, job.answer)
        if self._records[job.number] is not None or job.first_s is None:
            raise AssertionError(f"request {job.number} ended twice, or before its first token")
        self._records[job.number] = Record(
            number=job.number,
            worker=number,
            at_s=self._trace[job.number].at_s / self._speedup,
            first_s=job.first_s,
            end_s=now_s,
            prompt_tokens=job.prompt,
            cached_tokens=job.cached_tokens,
            answer_tokens=job.answer,
        )
