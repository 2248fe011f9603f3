"""One sequence, from schedule to last delta: a ticket, a worker, and another if it fails."""

from collections.abc import AsyncGenerator, Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import cast

from starloom.serve.base import Delta, EngineRequest, Finish, TokenLogprob, Usage
from starloom.serve.errors import EngineFailed, Unavailable
from starloom.serve.gateway.handing import HandsOver, handed_over
from starloom.serve.gateway.outlet import Outlet
from starloom.serve.gateway.record import Tracker
from starloom.serve.gateway.workers import Tries, Workers
from starloom.serve.schedule import Ask, Half, Ticket

WAIT_S = 5.0
"""So long a request waits for a worker to come up."""


@dataclass(slots=True)
class Sequence:
    """One answer to one prompt."""

    index: int
    request: EngineRequest
    ask: Ask
    never: Collection[str]
    """Workers that cannot take it."""


@dataclass(slots=True)
class Answer:
    """A whole answer, put together from deltas."""

    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    tokens: int = 0
    finish: Finish = "stop"
    stop: str | None = None
    usage: Usage | None = None

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def add(self, delta: Delta) -> None:
        if delta.text:
            self.texts.append(delta.text)
        if delta.logprobs:
            self.logprobs.extend(delta.logprobs)
        self.tokens += delta.tokens
        if delta.finish is not None:
            self.finish = delta.finish
            self.stop = delta.stop
            self.usage = delta.usage


class Relay:
    """Sends sequences to workers. `outlet` makes the guard of one answer, or None."""

    def __init__(
        self,
        workers: Workers,
        outlet: Callable[[Tracker, int], Outlet | None],
        now: Callable[[], float],
        wait_s: float = WAIT_S,
    ) -> None:
        self._workers = workers
        self._outlet = outlet
        self._now = now
        self._wait_s = wait_s

    async def stream(self, sequence: Sequence, tracker: Tracker) -> AsyncGenerator[Delta, None]:
        """Deltas as they come. Another worker is tried only before the first one."""
        tries = self._tries(sequence)
        while True:
            ticket = await self._ticket(sequence, tries, tracker)
            begun = False
            try:
                async with aclosing(self._attempt(sequence, ticket, tries.half, tracker)) as deltas:
                    async for delta in deltas:
                        begun = True
                        yield delta
            except (Unavailable, EngineFailed) as error:
                tracker.step("failed", ticket.worker, error.message)
                tries.failed(ticket.worker, error, begun=begun)
            else:
                return

    async def collect(self, sequence: Sequence, tracker: Tracker) -> Answer:
        """The whole answer. A worker that fails halfway is replaced, since nothing was sent."""
        tries = self._tries(sequence)
        while True:
            ticket = await self._ticket(sequence, tries, tracker)
            answer = Answer()
            try:
                async with aclosing(self._attempt(sequence, ticket, tries.half, tracker)) as deltas:
                    async for delta in deltas:
                        answer.add(delta)
            except (Unavailable, EngineFailed) as error:
                tracker.step("failed", ticket.worker, error.message)
                tries.failed(ticket.worker, error)
            else:
                return answer

    def _tries(self, sequence: Sequence) -> Tries:
        model, ask = sequence.request.model, sequence.ask
        # A prompt of less than a block is computed sooner than it is handed over.
        apart = ask.prompt_tokens >= ask.block_tokens and self._workers.table.apart(model)
        return self._tries_of(sequence, sequence.never, "decode" if apart else "whole")

    def _tries_of(self, sequence: Sequence, never: Collection[str], half: Half) -> Tries:
        model, ask = sequence.request.model, sequence.ask
        bodiless = sequence.request.body is None
        return Tries(
            self._workers, model, ask, never, self._wait_s, self._now, half, bodiless=bodiless
        )

    async def _ticket(self, sequence: Sequence, tries: Tries, tracker: Tracker) -> Ticket:
        if tries.half == "decode" and not tries.some():
            tries.half = "whole"  # a worker that prefills can do the rest as well
        ticket = await tries.next()
        tracker.record.workers[sequence.index] = ticket.worker
        tracker.record.helpers.pop(sequence.index, None)
        tracker.step("schedule", ticket.worker, ticket.why)
        return ticket

    def _deltas(
        self, sequence: Sequence, ticket: Ticket, half: Half, tracker: Tracker
    ) -> AsyncGenerator[Delta, None]:
        """What the ticket's worker answers, with another one's prefill for a decode ticket."""
        engine = self._workers.engines[ticket.worker]
        if half == "decode" and isinstance(engine, HandsOver):
            tries = self._tries_of(sequence, {*sequence.never, ticket.worker}, "prefill")
            prefill = tries.at_once()
            if prefill is not None:
                other = self._workers.engines[prefill.worker]
                if isinstance(other, HandsOver) and other.handover:
                    tracker.record.helpers[sequence.index] = prefill.worker
                    tracker.step("prefill", prefill.worker, prefill.why)
                    return handed_over(sequence.request, other, engine, prefill, tries, self._now)
                prefill.end()
        return cast("AsyncGenerator[Delta, None]", engine.stream(sequence.request))

    async def _attempt(
        self, sequence: Sequence, ticket: Ticket, half: Half, tracker: Tracker
    ) -> AsyncGenerator[Delta, None]:
        """What one worker says, past the guard. The ticket ends here, whatever happens."""
        outlet = self._outlet(tracker, sequence.ask.prompt_tokens)
        begun = False
        try:
            stream = self._deltas(sequence, ticket, half, tracker)
            async with aclosing(stream) as deltas:
                async for delta in deltas:
                    if delta.finish in ("error", "cancelled"):
                        raise EngineFailed(delta.error or "the worker gave the request up")
                    if not begun:
                        begun = True
                        ticket.first_token(self._now())
                        tracker.token()
                    if outlet is not None:
                        delta = outlet.let_out(delta)  # noqa: PLW2901
                    if delta.finish is not None:
                        made = delta.usage.completion_tokens if delta.usage is not None else 0
                        ticket.end(self._now(), made)
                        yield delta
                        return
                    yield delta
            raise EngineFailed("the worker ended without finishing the answer")
        finally:
            ticket.end()
            if outlet is not None:
                outlet.close()
