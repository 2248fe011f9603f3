"""The gateway's server: bounded connections, and a drain before it ends."""

import asyncio
import math
import resource
import signal
import socket
from functools import partial
from typing import Any, cast

import uvicorn

from starloom.serve.gateway.app import App
from starloom.serve.gateway.http import BoundedProtocol
from starloom.site import Gateway

_LOOK_S = 0.05
_CANCEL_S = 1
"""So long cancelled requests have to tell their clients."""
_OTHER_FILES = 512


class Server(uvicorn.Server):
    """One process, one event loop."""

    def __init__(self, app: App, gateway: Gateway) -> None:
        self._app = app
        self._gateway = gateway
        limits = gateway.limits
        protocol = partial(BoundedProtocol, limits=limits)
        super().__init__(
            uvicorn.Config(
                cast("Any", app),
                host=gateway.host,
                port=gateway.port,
                loop="uvloop",
                http=cast("Any", protocol),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=math.ceil(limits.keep_alive_s),
                timeout_graceful_shutdown=_CANCEL_S,
            )
        )

    async def main_loop(self) -> None:
        """Serve until asked to stop; then refuse new requests and let the others finish."""
        await super().main_loop()
        self._app.drain()
        try:
            async with asyncio.timeout(self._gateway.limits.drain_s):
                while self._app.running and not self.force_exit:
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError:
            pass  # what still runs is cancelled by `shutdown`

    def stop(self) -> None:
        """Begin to drain. May be called from any thread."""
        self.should_exit = True


def serve(app: App, gateway: Gateway, listener: socket.socket | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then drain and return.

    `listener` is a listening socket to use instead of `gateway.host` and `gateway.port`.
    """
    allow_files(gateway.limits.connections + _OTHER_FILES)
    server = Server(app, gateway)
    # uvicorn raises the signal again once it has ended: this handler takes it, and counts for
    # one that comes before uvicorn listens to signals.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    server.run(sockets=None if listener is None else [listener])


def allow_files(wanted: int) -> None:
    """Raise the soft limit of open files as far as the hard one lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
