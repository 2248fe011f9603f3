"""What an engine's own thread knows of hand-overs: which prompts leave, which come, which are over.

All methods are for that thread. Threads that send and fetch tell of their ends in a queue, and
`wake` gets the engine's thread to look into it.
"""

import socket
import time
from collections import deque
from collections.abc import Callable

from starloom.serve.engines.batch import Step
from starloom.serve.engines.executor import Choice, Executor
from starloom.serve.engines.handover.base import LEASE_S, First
from starloom.serve.engines.handover.incoming import Fetcher, Incoming
from starloom.serve.engines.handover.outgoing import Offers, Outgoing
from starloom.serve.engines.sequence import Sequence


class Desk:
    """Hand-overs of one engine. `layout` names weights and block contents: only equals meet."""

    def __init__(
        self,
        executor: Executor,
        layout: str,
        block_tokens: int,
        listener: socket.socket,
        address: str,
        *,
        lease_s: float = LEASE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.wake: Callable[[], None] = _nobody
        self.address = address
        self._executor = executor
        self._block_tokens = block_tokens
        self._lease_s = lease_s
        self._clock = clock
        self._ended: deque[Outgoing | Incoming] = deque()
        self._offers = Offers(listener, address, executor, layout, self._over)
        self._fetcher = Fetcher(executor, layout, self._over)
        self._leaving: dict[str, tuple[Sequence, Outgoing]] = {}
        """By the request's id."""
        self._coming: dict[str, tuple[Sequence, Incoming]] = {}

    @property
    def busy(self) -> bool:
        """Whether anything leaves or comes."""
        return bool(self._leaving or self._coming)

    def offer(self, sequence: Sequence, name: str) -> None:
        """A prompt that was submitted here and will be asked for."""
        outgoing = Outgoing(name, self._executor.layers)
        self._leaving[sequence.id] = sequence, outgoing
        self._offers.add(outgoing)

    def started(self, sequence: Sequence) -> None:
        """It has blocks now, and the KV of the first of them."""
        if (known := self._leaving.get(sequence.id)) is not None:
            known[1].begin(list(sequence.blocks), sequence.named)

    def layer_done(self, step: Step) -> Callable[[int], None] | None:
        """Who is to be told of each layer of a step, if anybody. Preempted prompts are dropped."""
        rows = []
        for sequence, outgoing in list(self._leaving.values()):
            if sequence.started and not sequence.blocks:
                self._end(outgoing, "its worker ran out of blocks")
            elif not outgoing.gone:
                rows.append((sequence, outgoing))
        ends = {piece.sequence.id: piece.end for piece in step.slices}
        told = [
            (outgoing, self._blocks(sequence, ends[sequence.id]))
            for sequence, outgoing in rows
            if sequence.id in ends
        ]

        def tell(layer: int) -> None:
            for outgoing, blocks in told:
                outgoing.layer_done(layer, blocks)

        return tell if told else None

    def finish(self, sequence: Sequence, choice: Choice) -> None:
        """The prompt is computed, and its first token drawn."""
        first = First(
            token=choice.token,
            logprob=choice.logprob,
            top=choice.top,
            cached_tokens=sequence.cached_tokens,
            pool_tokens=sequence.pool_tokens,
        )
        self._leaving[sequence.id][1].finish(first, self._clock())

    def fetch(self, sequence: Sequence, name: str, source: str) -> None:
        """Have the rest of a prompt brought into its blocks."""
        incoming = Incoming(
            name, source, list(sequence.blocks), sequence.named, self._executor.layers
        )
        self._coming[sequence.id] = sequence, incoming
        self._fetcher.fetch(incoming)

    def forgo(self, name: str) -> None:
        """Whoever waits for this transfer goes on without it."""
        for _, incoming in self._coming.values():
            if incoming.name == name:
                incoming.drop()  # its thread ends, and says so

    def ended(self) -> tuple[list[tuple[Sequence, bool]], list[tuple[Sequence, Incoming]]]:
        """Prompts whose leaving, and prompts whose coming, is over since the last call.

        With those that left: whether they were sent.
        """
        self._expire()
        gone: list[tuple[Sequence, bool]] = []
        come: list[tuple[Sequence, Incoming]] = []
        while self._ended:
            over = self._ended.popleft()
            rows = self._leaving if isinstance(over, Outgoing) else self._coming
            at = next((id_ for id_, (_, each) in rows.items() if each is over), None)
            if at is None:
                continue  # it was dropped meanwhile
            if isinstance(over, Outgoing):
                gone.append((self._leaving[at][0], over.sent))
                self.drop(at, "it was fetched")
            else:
                come.append((self._coming.pop(at)[0], over))
        return gone, come

    def make_room(self) -> bool:
        """Drop the prompt that has waited longest for somebody who wants it; False: there is none.

        Two workers that wait for each other's blocks would otherwise wait for a lease to end.
        """
        for _, outgoing in self._leaving.values():
            if outgoing.computed_s is not None and not outgoing.claimed and not outgoing.gone:
                self._end(outgoing, "its blocks were needed")
                return True
        return False

    def drop(self, request_id: str, why: str) -> None:
        """The request is over, whatever of it is under way: its blocks are the engine's again."""
        if (leaving := self._leaving.pop(request_id, None)) is not None:
            self._offers.remove(leaving[1], why)
        if (coming := self._coming.pop(request_id, None)) is not None:
            coming[1].drop()

    def close(self) -> None:
        for request_id in [*self._leaving, *self._coming]:
            self.drop(request_id, "its worker ends")
        self._offers.close()
        self._fetcher.close()

    def _blocks(self, sequence: Sequence, tokens: int) -> int:
        """Blocks that may go once so many tokens are computed: full ones, and the prompt's last."""
        if tokens >= sequence.prompt_tokens:
            return -(-sequence.prompt_tokens // self._block_tokens)
        return tokens // self._block_tokens

    def _expire(self) -> None:
        for _, outgoing in self._leaving.values():
            late = outgoing.computed_s is not None and not outgoing.claimed
            if late and self._clock() - (outgoing.computed_s or 0.0) > self._lease_s:
                self._end(outgoing, "nobody fetched it in time")

    def _end(self, outgoing: Outgoing, why: str) -> None:
        outgoing.drop(why)
        self._over(outgoing)

    def _over(self, what: Outgoing | Incoming) -> None:
        """Called by any thread."""
        self._ended.append(what)
        self.wake()


def _nobody() -> None:
    """The engine looks by itself."""
