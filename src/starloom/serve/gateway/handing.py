"""One sequence over two workers of ours: one computes the prompt, the other one answers.

Both are sent their half at once; the decode worker fetches KV from the other by itself. Whatever
becomes of the prefill half, the decode worker can go on alone, so that only its failures are the
request's.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Protocol, cast, runtime_checkable

import msgspec

from starloom.serve.base import Delta, EngineRequest, Handover
from starloom.serve.errors import EngineFailed, Unavailable
from starloom.serve.gateway.workers import Tries
from starloom.serve.schedule import Ticket

_NAME_BYTES = 16


@runtime_checkable
class HandsOver(Protocol):
    """A worker that can compute either half of a request."""

    @property
    def handover(self) -> str:
        """Where others fetch KV from it; empty where they cannot."""

    def stream(self, request: EngineRequest) -> AsyncIterator[Delta]:
        """As `Engine.stream`."""

    def forgo(self, name: str) -> None:
        """Tell it that a transfer will not come."""


async def handed_over(
    request: EngineRequest,
    prefill: HandsOver,
    decode: HandsOver,
    ticket: Ticket,
    tries: Tries,
    now: Callable[[], float],
) -> AsyncGenerator[Delta, None]:
    """The decode worker's deltas. `ticket` is the prefill half's, out of `tries`, and ends here."""
    name = secrets.token_hex(_NAME_BYTES)
    first = msgspec.structs.replace(request, handover=Handover(name))
    second = msgspec.structs.replace(request, handover=Handover(name, prefill.handover))
    # It begins at our first pause, so that decode is sent its half before it can be told to forgo.
    task = asyncio.create_task(_computed(first, prefill, decode, ticket, tries, now))
    try:
        stream = cast("AsyncGenerator[Delta, None]", decode.stream(second))
        async with aclosing(stream) as deltas:
            async for delta in deltas:
                yield delta
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        ticket.end()  # a task that was cancelled before it began has not done so


async def _computed(
    half: EngineRequest,
    prefill: HandsOver,
    decode: HandsOver,
    ticket: Ticket,
    tries: Tries,
    now: Callable[[], float],
) -> None:
    """See the prefill half through; where it fails, the decode worker is told."""
    handed = False
    try:
        stream = cast("AsyncGenerator[Delta, None]", prefill.stream(half))
        async with aclosing(stream) as deltas:
            async for delta in deltas:
                if delta.finish in (None, "stop"):
                    ticket.first_token(now())
                if delta.finish == "stop":
                    handed = True
                    ticket.end(now())
    except (Unavailable, EngineFailed) as error:
        tries.failed(ticket.worker, error)
    finally:
        ticket.end()
    if not handed and half.handover is not None:
        decode.forgo(half.handover.name)
