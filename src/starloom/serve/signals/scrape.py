"""Metrics pages, asked for at a pace that can stall neither the server nor us.

A large server may take a second of its own time to write its page. So one question is out at a
time, a page is asked for at most a tenth of the time (`_DUTY`), failures back off, and intervals
jitter, so that replicas of a gateway do not ask together.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Mapping

import httpx

from starloom.serve.signals.base import Load
from starloom.serve.signals.board import LoadBoard
from starloom.serve.signals.errors import BadPage
from starloom.serve.signals.metrics import Kind, load

_log = logging.getLogger(__name__)

TIMEOUT_S = 2.0
MAX_PAGE_BYTES = 16 << 20
_LONGEST_PAUSE_S = 30.0
_JITTER = 0.2
_DUTY = 0.1

Fetch = Callable[[], Awaitable[bytes]]
"""One page. Raises `BadPage`, `TimeoutError` or `httpx.HTTPError`."""


class Pace:
    """How long to wait before the next question. Pure: `draw` gives numbers from 0 to 1."""

    def __init__(self, every_s: float, draw: Callable[[], float]) -> None:
        self._every_s = every_s
        self._draw = draw
        self._failures = 0

    def interval_s(self, took_s: float) -> float:
        """Seconds between questions while they are answered, each after `took_s`."""
        return max(self._every_s, took_s / _DUTY)

    def next_s(self, *, ok: bool, took_s: float) -> float:
        """Seconds until the next question, after one that took so long."""
        self._failures = 0 if ok else self._failures + 1
        longest = max(_LONGEST_PAUSE_S, self._every_s)
        pause = min(self.interval_s(took_s) * float(1 << min(self._failures, 8)), longest)
        return pause * (1 + _JITTER * (2 * self._draw() - 1))


class MetricsSource:
    """Puts one worker's load on the board, from `start` to `close`."""

    def __init__(
        self,
        worker: str,
        kind: Kind,
        fetch: Fetch,
        board: LoadBoard,
        *,
        every_s: float = 1.0,
        timeout_s: float = TIMEOUT_S,
        draw: Callable[[], float] = random.random,
        block_tokens: int | None = None,
    ) -> None:
        self.worker = worker
        self.failures = 0
        self._kind: Kind = kind
        self._fetch = fetch
        self._board = board
        self._timeout_s = timeout_s
        self._pace = Pace(every_s, draw)
        self._block_tokens = block_tokens
        self._task: asyncio.Task[None] | None = None
        self._told = ""

    async def start(self) -> None:
        """Begin to ask. Returns at once."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"metrics {self.worker}")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _run(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            begun = clock()
            said = await self._ask()
            took = clock() - begun
            pause = self._pace.next_s(ok=said is not None, took_s=took)
            if said is not None:
                self._board.put(self.worker, said, self._pace.interval_s(took) * (1 + _JITTER))
            await asyncio.sleep(pause)

    async def _ask(self) -> Load | None:
        try:
            async with asyncio.timeout(self._timeout_s):
                page = await self._fetch()
            said = load(self._kind, page)
        except (BadPage, TimeoutError, httpx.HTTPError) as error:
            self.failures += 1
            self._tell(str(error) or type(error).__name__)
            return None
        ours, theirs = self._block_tokens, said.block_tokens
        if ours is not None and theirs is not None and ours != theirs:
            self._tell(f"its blocks have {theirs} tokens and the model's block_tokens are {ours}")
        else:
            self._told = ""
        return said

    def _tell(self, what: str) -> None:
        """Once, until it is otherwise."""
        if what != self._told:
            self._told = what
            _log.warning("metrics of %s: %s", self.worker, what)


def http_fetch(client: httpx.AsyncClient, url: str, headers: Mapping[str, str] = {}) -> Fetch:
    """Fetch over HTTP, within `MAX_PAGE_BYTES`."""

    async def fetch() -> bytes:
        page = bytearray()
        async with client.stream("GET", url, headers=headers) as response:
            if response.status_code != 200:
                raise BadPage(f"answered {response.status_code}")
            async for part in response.aiter_bytes():
                page += part
                if len(page) > MAX_PAGE_BYTES:
                    raise BadPage(f"the page is over {MAX_PAGE_BYTES >> 20} MiB")
        return bytes(page)

    return fetch
