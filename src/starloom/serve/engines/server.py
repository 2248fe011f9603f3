"""The socket side of a worker process: asyncio in a thread of its own.

It goes on answering while the engine's thread is in a long step. The two meet in a queue of events
(sockets to engine) and in `send` (engine to sockets).
"""

import asyncio
import itertools
import logging
import os
import queue
import socket
import threading
from dataclasses import dataclass
from pathlib import Path

from starloom.serve.base import LoadReport
from starloom.serve.engines.wire import (
    MAX_FRAME_BYTES,
    FromWorker,
    Hello,
    Report,
    ToWorker,
    WireError,
    encode,
    worker_frames,
)

_log = logging.getLogger(__name__)

REPORT_EVERY_S = 0.25
_MAX_UNSENT_BYTES = 2 * MAX_FRAME_BYTES


@dataclass(frozen=True, slots=True)
class Event:
    """A frame that came over a connection; None once the connection is gone."""

    connection: int
    frame: ToWorker | None


class Server:
    """Listens on a socket file. `events` is for the engine's thread; the rest is thread-safe."""

    def __init__(self, path: Path, hello: Hello, load: LoadReport) -> None:
        self.events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        """None means: look whether to stop."""
        self._path = path
        self._hello = encode(hello)
        self._load = load
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._numbers = itertools.count()
        self._loop = asyncio.new_event_loop()
        self._socket = listen(path)
        self._thread = threading.Thread(target=self._run, name="sockets", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def send(self, connection: int, frame: FromWorker) -> None:
        """Queue a frame; nothing happens where the connection is gone."""
        try:
            data = encode(frame)
        except WireError as error:
            _log.error("a connection is closed: %s", error)
            self._loop.call_soon_threadsafe(self._abort, connection)
        else:
            self._loop.call_soon_threadsafe(self._write, connection, data)

    def report(self, load: LoadReport, *, now: bool) -> None:
        """Remember the newest load for the next report; send one at once with `now`."""
        self._load = load
        if now:
            self._loop.call_soon_threadsafe(self._send_report)

    def close(self, timeout_s: float = 0.5) -> None:
        """Send what is queued for at most `timeout_s`, then close everything."""
        self._loop.call_soon_threadsafe(self._begin_close, timeout_s)
        self._thread.join(timeout_s + 0.5)
        self._path.unlink(missing_ok=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._closing = self._loop.create_future()
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        server = await asyncio.start_unix_server(self._connected, sock=self._socket)
        reports = asyncio.create_task(self._report_regularly())
        timeout_s = await self._closing
        server.close()
        reports.cancel()
        drains = [self._drain(writer) for writer in list(self._writers.values())]
        if drains:
            await asyncio.wait(map(asyncio.ensure_future, drains), timeout=timeout_s)

    def _begin_close(self, timeout_s: float) -> None:
        if not self._closing.done():
            self._closing.set_result(timeout_s)

    async def _drain(self, writer: asyncio.StreamWriter) -> None:
        writer.close()
        try:
            await writer.wait_closed()
        except OSError as error:
            _log.debug("a connection closed badly: %s", error)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = next(self._numbers)
        self._writers[connection] = writer
        writer.write(self._hello + encode(Report(self._load)))
        frames = worker_frames(reader)
        try:
            while True:
                self.events.put(Event(connection, await frames.read()))
        except WireError as error:
            _log.warning("a connection is closed: %s", error)
        except (EOFError, OSError):
            pass  # the usual end
        finally:
            del self._writers[connection]
            self.events.put(Event(connection, None))
            writer.close()

    def _write(self, connection: int, data: bytes) -> None:
        writer = self._writers.get(connection)
        if writer is None or writer.transport.is_closing():
            return
        writer.write(data)
        if writer.transport.get_write_buffer_size() > _MAX_UNSENT_BYTES:
            _log.warning("a connection that does not read is closed")
            self._abort(connection)

    def _abort(self, connection: int) -> None:
        if (writer := self._writers.get(connection)) is not None:
            writer.transport.abort()

    async def _report_regularly(self) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            self._send_report()

    def _send_report(self) -> None:
        data = encode(Report(self._load))
        for connection in list(self._writers):
            self._write(connection, data)


def listen(path: Path) -> socket.socket:
    """A listening AF_UNIX socket that only its owner can reach; a stale file is replaced."""
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        made.bind(str(path))
    finally:
        os.umask(mask)
    made.listen(64)
    made.setblocking(False)
    return made
