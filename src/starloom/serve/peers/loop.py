"""The task that lets gateways tell each other: news at once, everything once a second."""

import asyncio
import logging
from collections.abc import Callable, Sequence

from starloom.serve.peers.base import Bus
from starloom.serve.peers.board import Board

_log = logging.getLogger(__name__)

_NEWS_S = 0.002
_ALL_S = 1.0


class PeerLoop:
    """Sends a board's news over all buses, and gives what comes to it."""

    def __init__(self, board: Board, buses: Sequence[Bus], now: Callable[[], float]) -> None:
        self._board = board
        self._buses = buses
        self._now = now

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for bus in self._buses:
                bus.named(self._board.me)
                group.create_task(bus.run(self._take, self._board.left))
            group.create_task(self._tell())

    async def _tell(self) -> None:
        due_s = 0.0
        while True:
            now_s = self._now()
            if now_s >= due_s:
                due_s = now_s + _ALL_S
                self._board.expire(now_s)
                for bus in self._buses:
                    bus.send(self._board.all(near=bus.near))
            news = self._board.news()
            if news is not None:
                self._send(news)
            await asyncio.sleep(_NEWS_S)

    def _send(self, frame: bytes) -> None:
        for bus in self._buses:
            bus.send(frame)

    def _take(self, data: bytes) -> None:
        self._board.take(data, self._now())
