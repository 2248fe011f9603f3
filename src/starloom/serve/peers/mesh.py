"""The bus of one machine: every gateway process connects to every other over AF_UNIX.

Each listens at `gateway-N.sock` in the run folder, which only its owner can enter. Frames travel
one way, from who connected to who listens; a connection's end tells that its peer is gone.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

_log = logging.getLogger(__name__)

_AGAIN_S = 0.1
_HEADER_BYTES = 4
_MOST_BYTES = 8 << 20
_WAITING_BYTES = 4 << 20
"""A peer that reads nothing is sent nothing beyond this: the next full frame puts it right."""


class Mesh:
    """`own` is where this gateway listens, `others` where the rest do."""

    near = True

    def __init__(self, own: Path, others: Sequence[Path]) -> None:
        self._own = own
        self._others = others
        self._name = b""
        self._writers: set[asyncio.StreamWriter] = set()
        self._take: Callable[[bytes], None] = lambda _: None
        self._left: Callable[[str], None] = lambda _: None

    def named(self, peer: str) -> None:
        self._name = peer.encode()

    async def run(self, take: Callable[[bytes], None], left: Callable[[str], None]) -> None:
        self._take, self._left = take, left
        self._own.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._listen, str(self._own))
        async with server, asyncio.TaskGroup() as group:
            for path in self._others:
                group.create_task(self._keep(path))

    def send(self, frame: bytes) -> None:
        message = len(frame).to_bytes(_HEADER_BYTES, "little") + frame
        for writer in self._writers:
            if writer.transport.get_write_buffer_size() < _WAITING_BYTES:
                writer.write(message)

    async def _keep(self, path: Path) -> None:
        """A connection to one other gateway, made again whenever it ends."""
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_unix_connection(str(path))
                writer.write(len(self._name).to_bytes(_HEADER_BYTES, "little") + self._name)
                self._writers.add(writer)
                try:
                    await reader.read(1)  # nothing is ever said here but the end
                finally:
                    self._writers.discard(writer)
                    writer.close()
            await asyncio.sleep(_AGAIN_S)

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = ""
        try:
            name = (await _message(reader)).decode()
            while True:
                self._take(await _message(reader))
        except (asyncio.IncompleteReadError, OSError, ValueError) as error:
            _log.info("gateway %s is gone: %s", name or "unknown", type(error).__name__)
        finally:
            self._left(name)
            writer.close()


async def _message(reader: asyncio.StreamReader) -> bytes:
    size = int.from_bytes(await reader.readexactly(_HEADER_BYTES), "little")
    if size > _MOST_BYTES:
        raise ValueError(f"a frame of {size} bytes")
    return await reader.readexactly(size)
