"""The gateway's server: one process, one event loop, and a drain before it ends."""

import asyncio
import contextlib
import gc
import resource
import signal
import socket
from collections.abc import Sequence

import uvloop

from starloom.serve.gateway.app import App
from starloom.serve.gateway.client import Client, error_body
from starloom.serve.gateway.door import KEPT
from starloom.serve.http import Acceptor, HttpServer
from starloom.site import Gateway

_LOOK_S = 0.05
_CANCEL_S = 1.0
"""So long cancelled requests have to tell their clients."""
_OTHER_FILES = 512


class Server:
    """Serves an app until asked to stop; then refuses new requests and lets the others finish."""

    def __init__(self, app: App, gateway: Gateway) -> None:
        self._app = app
        self._gateway = gateway
        self._http = HttpServer(
            limits=gateway.limits, exchange=Client, handle=app, keep=KEPT, explain=error_body
        )
        self._stopping = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.started = False

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._http.connections)

    async def serve(self, listeners: Sequence[socket.socket]) -> None:
        """Serve on listening sockets."""
        self._loop = asyncio.get_running_loop()
        async with self._app.lifespan():
            self._http.start()
            acceptors = [Acceptor(sock, self._http.connect, self._has_more) for sock in listeners]
            for acceptor in acceptors:
                acceptor.start()
            self.started = True
            try:
                await self._stopping.wait()
                await self._drain()
            finally:
                for acceptor in acceptors:
                    acceptor.stop()
                self._http.stop()
                self._http.abort()

    def _has_more(self) -> bool:
        """Whether another gateway process should take the next connection rather than this one."""
        board = self._app.board
        if board is None:
            return False
        board.connections = len(self._http.connections)
        return board.connections > board.least_connections()

    def stop(self) -> None:
        """Begin to drain. May be called from any thread."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(self._stopping.set)
        else:
            self._stopping.set()

    async def _drain(self) -> None:
        """Let what runs finish, for a while; then cancel it, and close all connections."""
        self._app.drain()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._gateway.limits.drain_s
        while self._app.running and loop.time() < deadline:
            await asyncio.sleep(_LOOK_S)
        left = tuple(self._http.tasks)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=_CANCEL_S)
        self._http.close_idle()
        deadline = loop.time() + _CANCEL_S
        while self._http.connections and loop.time() < deadline:
            await asyncio.sleep(_LOOK_S)


def serve(app: App, gateway: Gateway, listener: socket.socket | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return.

    `listener` is a listening socket to use instead of `gateway.host` and `gateway.port`.
    """
    allow_files(gateway.limits.connections + _OTHER_FILES)
    server = Server(app, gateway)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    if listener is None:
        family = socket.AF_INET6 if ":" in gateway.host else socket.AF_INET
        listener = socket.create_server((gateway.host, gateway.port), family=family)
    settle_garbage()
    uvloop.run(server.serve([listener]))


def settle_garbage() -> None:
    """Take what is there for permanent (100,000 words are many objects), and look less often.

    Requests leave hardly any cycles behind; what they hold is freed at once.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def allow_files(wanted: int) -> None:
    """Raise the soft limit of open files as far as the hard one lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
