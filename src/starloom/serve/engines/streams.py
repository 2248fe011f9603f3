"""Deltas between the one who receives them and the one who reads them, in bounded memory."""

import asyncio
from collections import deque

from starloom.serve.base import Delta
from starloom.serve.errors import ServeError

_MOST_WAITING = 32


class DeltaQueue:
    """Deltas of one request. Those of a slow reader merge, so that at most 32 wait."""

    def __init__(self) -> None:
        self._waiting: deque[Delta] = deque()
        self._error: ServeError | None = None
        self._news = asyncio.Event()

    def put(self, delta: Delta) -> None:
        if len(self._waiting) < _MOST_WAITING:
            self._waiting.append(delta)
        else:
            self._waiting[-1] = merged(self._waiting[-1], delta)
        self._news.set()

    def fail(self, error: ServeError) -> None:
        """End the stream: what waits is not worth reading any more."""
        self._waiting.clear()
        self._error = error
        self._news.set()

    async def get(self) -> Delta:
        """The next delta. Raises the error that the stream failed with."""
        while not self._waiting:
            if self._error is not None:
                raise self._error
            self._news.clear()
            await self._news.wait()
        return self._waiting.popleft()


def merged(first: Delta, second: Delta) -> Delta:
    """One delta that says what two in a row did."""
    return Delta(
        id=first.id,
        text=first.text + second.text,
        tokens=first.tokens + second.tokens,
        logprobs=[*first.logprobs, *second.logprobs],
        finish=second.finish,
        stop=second.stop,
        usage=second.usage,
        error=second.error,
    )
