"""One worker's engine: scheduler, executor, text, and the shared KV pool where there is one."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import msgspec
from tokenizers import Tokenizer
from typing_extensions import Buffer

from starloom.kv.base import Lease, Pool
from starloom.serve.base import Delta, EngineRequest, Finish, LoadReport, Usage
from starloom.serve.engines.batch import CannotFit, Sampled, Scheduler
from starloom.serve.engines.blocks import BlockManager, expect
from starloom.serve.engines.detokenise import TextStream, TokenTexts
from starloom.serve.engines.executor import Choice, Executor
from starloom.serve.engines.handover import Desk
from starloom.serve.engines.sequence import Sequence as Running
from starloom.serve.engines.sharing import PoolReader, PoolWriter
from starloom.serve.errors import Unavailable


class EngineCore:
    """Takes requests, computes in steps, answers in deltas. Used by one thread.

    `open_pool` makes a client of the shared pool; it is called twice, since reads and writes come
    from two threads. `desk` is for halves of requests.
    """

    def __init__(
        self,
        executor: Executor,
        tokenizer: Tokenizer,
        *,
        block_tokens: int,
        max_batch: int,
        max_batch_tokens: int,
        max_waiting: int = 1024,
        context_tokens: int | None = None,
        eos: Collection[int] = (),
        open_pool: Callable[[], Pool] | None = None,
        desk: Desk | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.executor = executor
        self._tokenizer = tokenizer
        self._token_texts = TokenTexts(tokenizer)
        self._eos = frozenset(eos)
        self._blocks = BlockManager(executor.num_blocks, block_tokens)
        self._scheduler = Scheduler(
            self._blocks,
            max_batch=max_batch,
            max_batch_tokens=max_batch_tokens,
            context_tokens=context_tokens,
            eos=eos,
        )
        self._max_waiting = max_waiting
        self._clock = clock
        self._reader = PoolReader(open_pool(), clock) if open_pool else None
        self._writer = PoolWriter(open_pool(), clock) if open_pool else None
        self.desk = desk
        self._texts: dict[str, TextStream] = {}
        self._loading: dict[str, _Loading] = {}
        """Sequences that wait for the pool, by their ids."""
        self._halves: dict[str, EngineRequest] = {}
        """Decode halves whose KV has not begun to come."""
        self._totals = _Totals()

    @property
    def idle(self) -> bool:
        """Whether there is no request at all."""
        return self._scheduler.idle

    @property
    def waits(self) -> bool:
        """Whether a step would compute nothing now: `settle` may have news later."""
        return not self._scheduler.running and self._scheduler.can_start() is None

    def submit(self, request: EngineRequest) -> Delta | None:
        """Queue a request; a delta with `finish="error"` where it can never run here.

        Raises `Unavailable` when the queue is full: another worker may take it.
        """
        if len(self._scheduler.waiting) >= self._max_waiting:
            raise Unavailable(f"{self._max_waiting} requests wait for this worker already")
        half = request.handover
        if half is not None and self.desk is None:
            raise Unavailable("this worker hands no KV over: its site has no halves")
        if half is not None and not half.source:
            one = msgspec.structs.replace(request.sampling, max_tokens=1)
            request = msgspec.structs.replace(request, sampling=one)
        try:
            _check_tokens(request.tokens, self.executor.vocab)
            sequence = self._scheduler.submit(request)
        except CannotFit as error:
            return Delta(id=request.id, finish="error", error=str(error))
        if half is not None and half.source:
            self._halves[request.id] = request
        elif half is not None and self.desk is not None:
            self.desk.offer(sequence, half.name)
        self._texts[request.id] = TextStream(self._tokenizer, request.tokens, request.sampling.stop)
        return None

    def cancel(self, request_id: str) -> Delta | None:
        """End a request now; None when it is over already."""
        return self._abandon(request_id, "cancelled")

    def fail_all(self, message: str) -> list[Delta]:
        """End every request with an error, after a step that broke."""
        deltas = []
        for request_id in list(self._texts):
            delta = self._abandon(request_id, "error", message)
            # None: it finished in that very step, and its last delta was lost.
            deltas.append(delta or Delta(id=request_id, finish="error", error=message))
            self._texts.pop(request_id, None)
        return deltas

    def step(self) -> list[Delta]:
        """Compute one step; returns a delta for each token that was drawn."""
        began = self._clock()
        self._land()
        self._admit()
        step = self._scheduler.next_step()
        if not step.slices:
            return []
        told = None if self.desk is None else self.desk.layer_done(step)
        choices = self.executor.run(step) if told is None else self.executor.run(step, told)
        result = self._scheduler.finish_step(step, [choice.token for choice in choices])
        self._share(result.filled)
        deltas = [
            self._delta(sampled, choice)
            for sampled, choice in zip(result.sampled, choices, strict=True)
        ]
        self._totals.steps += 1
        self._totals.busy_s += self._clock() - began
        return deltas

    def on_news(self, wake: Callable[[], None]) -> None:
        """Have `wake` called, by any thread, when `settle` should be."""
        for part in (self.desk, self._reader):
            if part is not None:
                part.wake = wake

    def settle(self) -> list[Delta]:
        """Take in what the pool and other workers gave; deltas of what that begins or ends.

        Never waits. Call it before a step, and on news.
        """
        self._land()
        if self.desk is None or not self.desk.busy:
            return []
        left, come = self.desk.ended()
        if not left and self.waits and self._scheduler.waiting and self.desk.make_room():
            left, more = self.desk.ended()
            come += more
        deltas = [self._left(sequence, sent) for sequence, sent in left]
        for sequence, incoming in come:
            first = incoming.first
            if first is None:
                self._scheduler.arrived(sequence, incoming.whole_blocks)
                self._count(sequence)
                self._totals.fetch_failures += 1
                continue
            self._totals.fetched += 1
            if first.cached_tokens > sequence.cached_tokens:
                sequence.cached_tokens = first.cached_tokens
                sequence.pool_tokens = first.pool_tokens
            sampled = self._scheduler.arrived(sequence, len(incoming.blocks), first.token)
            if sampled is not None:
                deltas.append(self._delta(sampled, Choice(first.token, first.logprob, first.top)))
        return deltas

    def forgo(self, name: str) -> None:
        """The transfer `name` will not come: who waits for it computes by itself."""
        for request_id, request in list(self._halves.items()):
            if request.handover is not None and request.handover.name == name:
                del self._halves[request_id]
                self._totals.fetch_failures += 1
        if self.desk is not None:
            self.desk.forgo(name)

    def report(self) -> LoadReport:
        totals = self._totals
        return LoadReport(
            running=len(self._scheduler.running),
            waiting=len(self._scheduler.waiting),
            waiting_tokens=self._scheduler.uncomputed_prompt_tokens,
            kv_blocks=self._blocks.num_blocks,
            kv_blocks_used=self._blocks.used,
            prompt_tokens_total=totals.prompt_tokens,
            cached_tokens_total=totals.cached_tokens,
            pool_tokens_total=totals.pool_tokens,
            generated_tokens_total=totals.generated_tokens,
            steps_total=totals.steps,
            busy_s_total=totals.busy_s,
            arriving=len(self._scheduler.arriving),
            kv_blocks_arriving=sum(len(each.blocks) for each in self._scheduler.arriving),
            fetched_total=totals.fetched,
            fetch_failures_total=totals.fetch_failures,
        )

    def export_blocks(
        self, keys: Iterable[bytes], max_bytes: int | None = None
    ) -> dict[bytes, bytes]:
        """Copies of the full blocks among `keys` that are here: the first ones, in `max_bytes`.

        At least one, whatever its size.
        """
        size = self.executor.block_bytes
        count = None if max_bytes is None else max(1, max_bytes // size)
        found = ((key, self._blocks.find(key)) for key in keys)
        held = ((key, at) for key, at in found if at is not None)
        return {key: self.executor.export_block(at) for key, at in islice(held, count)}

    def import_blocks(self, blocks: Mapping[bytes, Buffer]) -> int:
        """Keep blocks of another worker, given in prefix order; returns how many are new here."""
        held: list[int] = []
        new = 0
        for key, data in blocks.items():
            known = self._blocks.find(key)
            if known is not None:
                self._blocks.hold([known])  # else its own tail could take its place
                held.append(known)
                continue
            if memoryview(data).nbytes != self.executor.block_bytes or not self._blocks.free:
                break
            held += self._blocks.take(1)
            self.executor.import_block(held[-1], data)
            self._blocks.name(held[-1], key)
            new += 1
        self._blocks.release(held)
        return new

    def check_integrity(self) -> None:
        """Raise AssertionError where the books disagree. For tests and idle time."""
        self._scheduler.check_integrity()
        expect(self._texts.keys() == self._scheduler.ids, "a text belongs to no sequence")

    def close(self) -> None:
        for part in (self.desk, self._reader, self._writer, self.executor):
            if part is not None:
                part.close()

    def _admit(self) -> None:
        while (sequence := self._scheduler.can_start()) is not None:
            first = not sequence.started
            held = self._scheduler.start(sequence)
            half = self._halves.pop(sequence.id, None)
            if half is not None and half.handover is not None and self.desk is not None:
                self._scheduler.arrives(sequence)
                self.desk.fetch(sequence, half.handover.name, half.handover.source)
                continue
            wanted = sequence.reusable_keys[held:]
            if self._reader is not None and self._reader.begin(sequence.id, wanted):
                self._scheduler.arrives(sequence)
                self._loading[sequence.id] = _Loading(sequence, held, first)
                continue
            self._ready(sequence, first)

    def _land(self) -> None:
        """Fill in what the pool holds, where its answer is here."""
        for request_id, lease in self._reader.ended() if self._reader is not None else ():
            loading, count = self._loading.pop(request_id), 0
            if lease is not None:
                with lease:
                    count = self._import(lease, loading.sequence.blocks[loading.held :])
            self._scheduler.landed(loading.sequence, count)
            self._ready(loading.sequence, loading.first)

    def _ready(self, sequence: Running, first: bool) -> None:
        """It computes from here on; `first`: it never did before."""
        if self.desk is not None:
            self.desk.started(sequence)
        if first:
            self._count(sequence)

    def _count(self, sequence: Running) -> None:
        """A prompt that is computed here, but for what was reused."""
        self._totals.prompt_tokens += sequence.prompt_tokens
        self._totals.cached_tokens += sequence.cached_tokens
        self._totals.pool_tokens += sequence.pool_tokens

    def _import(self, lease: Lease, blocks: Sequence[int]) -> int:
        """Fill leading blocks from the pool; returns how many were."""
        count = 0
        for block, view in zip(blocks, lease.views, strict=False):
            if view.nbytes != self.executor.block_bytes:
                break
            self.executor.import_block(block, view)
            count += 1
        return count if lease.valid() else 0

    def _share(self, filled: Sequence[tuple[bytes, int]]) -> None:
        """Queue copies of new blocks for the pool, tails left out where it is slow."""
        if self._writer is None or not filled:
            return
        shared = filled[: self._writer.room(self.executor.block_bytes)]
        if shared:
            self._writer.put([(key, self.executor.export_block(at)) for key, at in shared])

    def _delta(self, sampled: Sampled, choice: Choice) -> Delta:
        sequence, finish = sampled.sequence, sampled.finish
        if sequence.leaves:
            if self.desk is not None:
                self.desk.finish(sequence, choice)
            return Delta(id=sequence.id)
        self._totals.generated_tokens += 1
        text = self._texts[sequence.id]
        sampling = sequence.sampling
        delta = Delta(id=sequence.id, tokens=1, finish=finish)
        if not (finish == "stop" and sampled.token in self._eos):
            if sampling.logprobs is not None:
                delta.logprobs = [self._token_texts.logprob(choice)]
            may_stop = sequence.generated > sampling.min_tokens
            piece = text.push(sampled.token, may_stop=may_stop)
            delta.text, delta.stop = piece.text, piece.stop
        if delta.stop is not None:
            delta.finish = "stop"
            self._scheduler.cancel(sequence.id)
        elif finish is not None:
            delta.text += text.flush()
        if delta.finish is not None:
            delta.usage = _usage(sequence)
            del self._texts[sequence.id]
        return delta

    def _left(self, sequence: Running, sent: bool) -> Delta:
        """A prompt's hand-over is over; where it failed, who waits for it must be told."""
        self._scheduler.cancel(sequence.id)
        self._texts.pop(sequence.id, None)
        usage = msgspec.structs.replace(_usage(sequence), completion_tokens=0)
        return Delta(id=sequence.id, finish="stop" if sent else "cancelled", usage=usage)

    def _abandon(self, request_id: str, finish: Finish, error: str | None = None) -> Delta | None:
        self._halves.pop(request_id, None)
        if self._loading.pop(request_id, None) is not None and self._reader is not None:
            self._reader.drop(request_id)
        if self.desk is not None:
            self.desk.drop(request_id, "its request is over")
        sequence = self._scheduler.cancel(request_id)
        if sequence is None:
            return None
        text = self._texts.pop(request_id).flush()
        return Delta(id=request_id, text=text, finish=finish, error=error, usage=_usage(sequence))


@dataclass(frozen=True, slots=True)
class _Loading:
    sequence: Running
    held: int
    """Leading blocks that were here already."""
    first: bool
    """Whether it never ran before."""


class _Totals:
    """Counters since the worker began."""

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.pool_tokens = 0
        self.generated_tokens = 0
        self.steps = 0
        self.busy_s = 0.0
        self.fetched = 0
        self.fetch_failures = 0


def _check_tokens(tokens: Sequence[int], vocab: int) -> None:
    """Raise `CannotFit` for ids that would break a step, and with it everybody's answers."""
    if tokens and not 0 <= min(tokens) <= max(tokens) < vocab:
        raise CannotFit(f"token ids go from 0 to {vocab - 1}")


def _usage(sequence: Running) -> Usage:
    return Usage(
        prompt_tokens=sequence.prompt_tokens,
        completion_tokens=sequence.generated,
        cached_tokens=sequence.cached_tokens,
        pool_tokens=sequence.pool_tokens,
    )
