"""New connections, one a turn of the loop, so that processes on one listener share them evenly."""

import asyncio
import logging
import socket
from collections.abc import Callable

_log = logging.getLogger(__name__)

_DEFER_S = 0.002
"""So long a process that has more connections than another leaves a new one to it."""
_FULL_S = 0.1
"""The pause after the system had no descriptor left."""


class Acceptor:
    """Takes connections off a listening socket. `has_more` tells when to leave one to others."""

    def __init__(
        self,
        listener: socket.socket,
        connect: Callable[[], asyncio.BaseProtocol],
        has_more: Callable[[], bool],
    ) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._connect = connect
        self._has_more = has_more
        self._deferred = False
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[object]] = set()

    def start(self) -> None:
        """Begin. Needs a running loop."""
        self._timer = None
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._come)

    def stop(self) -> None:
        """Accept no more; the listener stays open, for others that have it too."""
        if self._timer is not None:
            self._timer.cancel()
        asyncio.get_running_loop().remove_reader(self._listener.fileno())

    def _come(self) -> None:
        if not self._deferred and self._has_more():
            self._deferred = True
            self._pause(_DEFER_S)
            return
        self._deferred = False
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another process took it, or it is gone
        except OSError as error:
            _log.error("no connection can be accepted: %s", error)
            self._pause(_FULL_S)
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop = asyncio.get_running_loop()
        task = loop.create_task(loop.connect_accepted_socket(self._connect, sock))
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[object]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("a connection was lost as it came: %s", error)

    def _pause(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listener.fileno())
        self._timer = loop.call_later(seconds, self.start)
