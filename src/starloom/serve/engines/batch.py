"""Continuous batching: which tokens of which sequences the next step computes.

Pure: no clock, no socket, no weights; a worker runs it on an executor, the twin in simulated
time. One round is

    while (sequence := scheduler.can_start()) is not None:
        scheduler.start(sequence)              # blocks are its own now
        scheduler.arrives(sequence)            # where a pool may fill some of them
    step = scheduler.next_step()
    done = scheduler.finish_step(step, tokens_sampled)

Decoding sequences come first, then prefill in chunks, under `max_batch` sequences and
`max_batch_tokens` tokens a step; lower `priority` first, then first come, first served. When blocks
run out the last in that order is preempted and computes again later. Every sequence fits the cache
alone, so the first in order always moves on.

A sequence that started may be *arriving*: a pool, or another worker where prefill and decode are
apart, fills its blocks, and it computes nothing until that is over. One of which the prompt alone
is computed here is *leaving* after that, and holds its blocks until it is cancelled.
"""

from bisect import insort
from collections import Counter
from collections.abc import Collection, KeysView
from collections.abc import Sequence as List
from dataclasses import dataclass, field

from starloom.serve.base import EngineRequest, Finish
from starloom.serve.engines.blocks import BlockManager, expect
from starloom.serve.engines.sequence import Sequence


class CannotFit(ValueError):
    """The request can never run here. The message is safe to show to a client."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Consecutive tokens of one sequence to compute in one step."""

    sequence: Sequence
    start: int
    """Tokens before them, whose KV is in the blocks already."""
    tokens: List[int]
    blocks: List[int]
    """The sequence's block table; covers `start + len(tokens)` tokens."""
    sample: bool
    """Whether the next token is drawn from the last of them."""

    @property
    def end(self) -> int:
        """Tokens of the sequence whose KV is there after the step."""
        return self.start + len(self.tokens)


@dataclass(frozen=True, slots=True)
class Step:
    """What to compute at once. One token of a sequence that sampled before is decode."""

    slices: List[Slice]

    @property
    def sampled(self) -> List[Slice]:
        """Slices that want a token, in the order in which `finish_step` expects them."""
        return [piece for piece in self.slices if piece.sample]


@dataclass(frozen=True, slots=True)
class Sampled:
    """One new token of a sequence, and whether it was the last."""

    sequence: Sequence
    token: int
    finish: Finish | None


@dataclass(frozen=True, slots=True)
class StepResult:
    sampled: List[Sampled]
    filled: List[tuple[bytes, int]] = field(default_factory=list)
    """Key and block of each block that became full, prefixes in order. Read them before the next
    step: a finished sequence's blocks may be taken then."""


class Scheduler:
    """Waiting and running sequences over one `BlockManager`."""

    def __init__(
        self,
        blocks: BlockManager,
        *,
        max_batch: int,
        max_batch_tokens: int,
        context_tokens: int | None = None,
        eos: Collection[int] = (),
    ) -> None:
        self.blocks = blocks
        self.running: list[Sequence] = []
        """In order of priority, then arrival."""
        self.waiting: list[Sequence] = []
        self.arriving: list[Sequence] = []
        self.leaving: list[Sequence] = []
        capacity = blocks.num_blocks * blocks.block_tokens
        self.limit_tokens = min(capacity, context_tokens or capacity)
        """Prompt and answer together; an answer that reaches it ends with `length`."""
        self._max_batch = max_batch
        self._max_batch_tokens = max_batch_tokens
        self._eos = frozenset(eos)
        self._by_id: dict[str, Sequence] = {}
        self._arrivals = 0
        self._in_flight: Counter[bytes] = Counter()

    @property
    def idle(self) -> bool:
        return not self._by_id

    @property
    def ids(self) -> KeysView[str]:
        """Ids of all sequences, waiting or running."""
        return self._by_id.keys()

    @property
    def uncomputed_prompt_tokens(self) -> int:
        """Prompt tokens of all sequences that are not prefilled yet, here or elsewhere."""
        return sum(max(s.prompt_tokens - s.computed, 0) for s in self._by_id.values())

    def submit(self, request: EngineRequest) -> Sequence:
        """Queue a request. Raises `CannotFit` when no state of this worker could run it."""
        tokens, size = len(request.tokens), self.blocks.block_tokens
        if request.id in self._by_id:
            raise CannotFit("a request of this id is running")
        if not tokens:
            raise CannotFit("the prompt holds no tokens")
        if tokens >= self.limit_tokens:
            raise CannotFit(f"a prompt of {tokens} tokens needs more than {self.limit_tokens}")
        if request.keys and len(request.keys) != tokens // size:
            raise CannotFit(f"{len(request.keys)} keys for {tokens // size} full blocks")
        sequence = Sequence(request, self._arrivals, size)
        self._arrivals += 1
        self._by_id[request.id] = sequence
        insort(self.waiting, sequence, key=_order)
        return sequence

    def cancel(self, request_id: str) -> Sequence | None:
        """Take a sequence out, and its blocks back; None when there is none of that id."""
        sequence = self._by_id.pop(request_id, None)
        if sequence is None:
            return None
        if sequence.blocks:
            self._stop(sequence)
        else:
            self.waiting.remove(sequence)
        return sequence

    def can_start(self) -> Sequence | None:
        """The waiting sequence that would join the next step, if one can.

        A sequence whose next block a running one is computing waits for it, and lets others pass;
        one that finds too few blocks does not, so that a long prompt is not passed for ever.
        """
        budget = self._max_batch_tokens - sum(s.uncomputed for s in self.running)
        batch = len(self.running) + len(self.arriving)
        if budget <= 0 or batch >= self._max_batch:
            return None
        for sequence in self.waiting:
            if sequence.waits_for is not None and self._in_flight[sequence.waits_for]:
                continue
            known = self.blocks.known_prefix(sequence.reusable_keys)
            sequence.waits_for = _next_key(sequence, len(known))
            if sequence.waits_for is not None and self._in_flight[sequence.waits_for]:
                continue
            fresh = self.blocks.blocks_for(len(sequence.tokens)) - len(known)
            # Each running sequence may soon want one more: starting on their blocks would only
            # end in a preemption.
            fits = self.blocks.can_take(fresh + batch, known)
            return sequence if fits else None
        return None

    def start(self, sequence: Sequence) -> int:
        """Give it all blocks of its tokens; returns how many of them hold their KV already."""
        self.waiting.remove(sequence)
        insort(self.running, sequence, key=_order)
        known = self.blocks.known_prefix(sequence.reusable_keys)
        self.blocks.hold(known)
        fresh = self.blocks.take(self.blocks.blocks_for(len(sequence.tokens)) - len(known))
        sequence.blocks = known + fresh
        self._skip(sequence, len(known))
        self._in_flight.update(sequence.keys[len(known) :])
        return len(known)

    def imported(self, sequence: Sequence, count: int) -> None:
        """The next `count` blocks of a sequence that just started were filled from outside."""
        first = sequence.named
        for index in range(first, first + count):
            self._name(sequence, index)
        if not sequence.started:
            sequence.pool_tokens = count * sequence.block_tokens
        self._skip(sequence, first + count)

    def arrives(self, sequence: Sequence) -> None:
        """Somebody else fills blocks of a sequence that just started."""
        self.running.remove(sequence)
        self.arriving.append(sequence)

    def landed(self, sequence: Sequence, count: int) -> None:
        """An arriving sequence's next `count` blocks came out of a pool; it computes the rest."""
        self.arriving.remove(sequence)
        insort(self.running, sequence, key=_order)
        self.imported(sequence, count)

    def arrived(self, sequence: Sequence, blocks: int, first: int | None = None) -> Sampled | None:
        """Another worker filled its first `blocks` blocks; it computes the rest.

        With `first`, the first token of its answer, that is nothing: the whole prompt is here.
        """
        self.arriving.remove(sequence)
        insort(self.running, sequence, key=_order)
        sequence.started = True
        if first is None:
            blocks = min(blocks, (len(sequence.tokens) - 1) // sequence.block_tokens)
        full = min(blocks, len(sequence.tokens) // sequence.block_tokens)
        for index in range(sequence.named, full):
            self._name(sequence, index)
        sequence.computed = full * sequence.block_tokens
        if first is None:
            return None
        sequence.computed = len(sequence.tokens)
        return self._sampled(sequence, first)

    def next_step(self) -> Step:
        """The tokens to compute now. Preempts where a decoding sequence finds no block."""
        for sequence in list(self.running):
            sequence.started = True
            if sequence.blocks:  # else it was preempted just now
                self._grow(sequence)
        # The rest of a prompt can be one token; decode or not, it costs and is computed the same.
        ones = [s for s in self.running if s.uncomputed == 1]
        more = [s for s in self.running if s.uncomputed > 1]
        budget = self._max_batch_tokens
        slices = []
        for sequence in ones + more:
            count = min(sequence.uncomputed, budget)
            if not count:
                break
            budget -= count
            slices.append(_slice(sequence, count))
        return Step(slices)

    def finish_step(self, step: Step, tokens: List[int]) -> StepResult:
        """Take in one token for each of `step.sampled`; sequences that finish give blocks back.

        Sequences cancelled since `next_step` are passed over.
        """
        drawn = iter(tokens)
        sampled: list[Sampled] = []
        filled: list[tuple[bytes, int]] = []
        for piece in step.slices:
            token = next(drawn) if piece.sample else None
            sequence = piece.sequence
            if self._by_id.get(sequence.id) is not sequence:
                continue
            sequence.computed = piece.end
            for index in range(sequence.named, sequence.computed // sequence.block_tokens):
                key = self._name(sequence, index)
                if key is not None:
                    filled.append((key, sequence.blocks[index]))
            if token is not None:
                sampled.append(self._sampled(sequence, token))
        return StepResult(sampled, filled)

    def check_integrity(self) -> None:
        """Raise AssertionError where sequences and blocks disagree."""
        self.blocks.check_integrity()
        holders = [*self.running, *self.arriving, *self.leaving]
        held = {block for s in holders for block in s.blocks}
        expect(len(held) == self.blocks.used, "a held block belongs to no sequence")
        expect(not any(s.blocks for s in self.waiting), "a waiting sequence holds blocks")
        expect(len(holders) + len(self.waiting) == len(self._by_id), "a sequence is lost")
        flying = sum(len(s.keys[s.named :]) for s in holders)
        expect(self._in_flight.total() == flying, "a block in flight belongs to no sequence")

    def _sampled(self, sequence: Sequence, token: int) -> Sampled:
        """One more token; a sequence that is finished gives its blocks back, or keeps them."""
        sequence.tokens.append(token)
        finish = self._finish(sequence, token)
        if finish is not None and sequence.leaves:
            self.running.remove(sequence)
            self.leaving.append(sequence)
        elif finish is not None:
            self.cancel(sequence.id)
        return Sampled(sequence, token, finish)

    def _finish(self, sequence: Sequence, token: int) -> Finish | None:
        sampling = sequence.sampling
        ended = token in self._eos and not sampling.ignore_eos
        if ended and sequence.generated > sampling.min_tokens:
            return "stop"
        full = len(sequence.tokens) >= self.limit_tokens
        return "length" if full or sequence.generated >= sampling.max_tokens else None

    def _grow(self, sequence: Sequence) -> None:
        """One more block where the next token needs it; the last in order makes room."""
        while len(sequence.blocks) < self.blocks.blocks_for(len(sequence.tokens)):
            if self.blocks.can_take(1):
                sequence.blocks += self.blocks.take(1)
                return
            victim = self.running[-1]
            self._stop(victim)
            insort(self.waiting, victim, key=_order)
            if victim is sequence:
                return

    def _skip(self, sequence: Sequence, blocks: int) -> None:
        """Its first `blocks` blocks hold their KV."""
        sequence.named = blocks
        sequence.computed = blocks * sequence.block_tokens
        if not sequence.started:
            sequence.cached_tokens = sequence.computed

    def _name(self, sequence: Sequence, index: int) -> bytes | None:
        """Offer full block `index` for reuse; its key if it is the first with these contents."""
        known = index < len(sequence.keys)
        key = sequence.key_of(index)
        sequence.named = index + 1
        if key is None:
            return None
        if known:
            self._land(key)
        return key if self.blocks.name(sequence.blocks[index], key) else None

    def _stop(self, sequence: Sequence) -> None:
        """Out of those that hold blocks, and all blocks back."""
        holders = (self.running, self.arriving, self.leaving)
        next(group for group in holders if sequence in group).remove(sequence)
        for key in sequence.keys[sequence.named :]:
            self._land(key)
        self.blocks.release(sequence.blocks)
        sequence.blocks = []
        sequence.computed = sequence.named = 0

    def _land(self, key: bytes) -> None:
        self._in_flight[key] -= 1
        if not self._in_flight[key]:
            del self._in_flight[key]


def _order(sequence: Sequence) -> tuple[int, int]:
    return sequence.order


def _next_key(sequence: Sequence, known: int) -> bytes | None:
    keys = sequence.reusable_keys
    return keys[known] if known < len(keys) else None


def _slice(sequence: Sequence, count: int) -> Slice:
    start = sequence.computed
    return Slice(
        sequence=sequence,
        start=start,
        tokens=sequence.tokens[start : start + count],
        blocks=sequence.blocks,
        sample=start + count == len(sequence.tokens),
    )
