"""A worker process as the gateway sees it: an `Engine` behind its socket."""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from starloom.serve.base import Delta, EngineRequest, LoadReport
from starloom.serve.engines import wire
from starloom.serve.engines.streams import DeltaQueue
from starloom.serve.errors import Busy, EngineFailed, Unavailable

_log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 1.0
_SILENCE_S = 10.0
"""A worker reports four times a second; one that says nothing for so long is taken for lost."""
_EXCHANGE_S = 30.0


class RemoteEngine:
    """Connects and reconnects to one worker; `on_up` and `on_down` are told its name."""

    def __init__(self, name: str, model: str, socket: Path, fingerprint: str) -> None:
        self.name = name
        self.model = model
        self.on_up: Callable[[str], None] | None = None
        self.on_down: Callable[[str], None] | None = None
        self.hello: wire.Hello | None = None
        """What the worker said of itself; None while it is away."""
        self._socket = socket
        self._fingerprint = fingerprint
        self._writer: asyncio.StreamWriter | None = None
        self._load = LoadReport()
        self._streams: dict[str, DeltaQueue] = {}
        self._exchanges: dict[int, _Exchange] = {}
        self._refs = itertools.count()
        self._task: asyncio.Task[None] | None = None

    @property
    def ready(self) -> bool:
        return self.hello is not None

    def report(self) -> LoadReport:
        return self._load

    async def start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._keep_connected(), name=f"worker {self.name}")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def stream(self, request: EngineRequest) -> AsyncIterator[Delta]:
        if not self.ready:
            raise Unavailable(f"worker {self.name!r} is not connected")
        # A try has a name of its own: late deltas of one must not be taken for those of the next.
        sent_id = f"{request.id}#{next(self._refs)}"
        deltas = self._streams[sent_id] = DeltaQueue()
        finished = False
        try:
            self._send(wire.Submit(msgspec.structs.replace(request, id=sent_id, body=None)))
            while not finished:
                delta = await deltas.get()
                delta.id = request.id
                finished = delta.finish is not None
                yield delta
        except (Unavailable, EngineFailed):
            finished = True
            raise
        finally:
            if self._streams.pop(sent_id, None) is not None and not finished:
                self._send(wire.Cancel(sent_id))

    async def export_blocks(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        left = list(keys)
        while left:
            exchange = self._begin_exchange()
            self._send(wire.Export(exchange.ref, left))
            await self._await_exchange(exchange)
            if not exchange.blocks:
                break
            found.update(exchange.blocks)
            left = left[left.index(exchange.blocks[-1][0]) + 1 :]
        return found

    async def import_blocks(self, blocks: Mapping[bytes, bytes]) -> int:
        count = 0
        for part in wire.parts(list(blocks.items())):
            exchange = self._begin_exchange()
            self._send(wire.Import(exchange.ref, part))
            await self._await_exchange(exchange)
            count += exchange.count
            if not exchange.count:
                break  # it is full: what follows would push these out
        return count

    @property
    def handover(self) -> str:
        """Where other workers fetch what it computed; empty where they cannot."""
        return self.hello.handover if self.hello is not None else ""

    def forgo(self, name: str) -> None:
        """Tell it that a transfer will not come."""
        self._send(wire.Forgo(name))

    def take_role(self, role: Literal["both", "prefill", "decode"]) -> None:
        """Tell it which half it is sent from now on; its reports say so, to all gateways."""
        self._send(wire.TakeRole(role))

    def drain(self) -> None:
        """Ask the worker to take nothing new, finish, and end."""
        self._send(wire.Drain())

    def _send(self, frame: wire.ToWorker) -> None:
        if self._writer is not None and not self._writer.transport.is_closing():
            self._writer.write(wire.encode(frame))

    async def _keep_connected(self) -> None:
        pause_s = _FIRST_PAUSE_S
        try:
            while True:
                if await self._connection():
                    pause_s = _FIRST_PAUSE_S
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        finally:
            self._lost()

    async def _connection(self) -> bool:
        """Live through one connection; whether it ever was of use."""
        try:
            reader, writer = await asyncio.open_unix_connection(str(self._socket))
        except OSError:
            return False  # not started yet, or gone
        frames = wire.gateway_frames(reader)
        greeted = False
        try:
            async with asyncio.timeout(_SILENCE_S):
                self._greet(await frames.read(), writer)
            greeted = True
            while True:
                async with asyncio.timeout(_SILENCE_S):
                    frame = await frames.read()
                self._take(frame)
        except (EOFError, OSError) as error:  # TimeoutError is one
            _log.info("worker %s is lost: %s", self.name, error or type(error).__name__)
        except wire.WireError as error:
            _log.error("worker %s: %s", self.name, error)
        finally:
            self._lost()
            writer.close()
        return greeted

    def _greet(self, frame: wire.FromWorker, writer: asyncio.StreamWriter) -> None:
        """Check who answers. Raises `WireError` when it is not the worker that we expect."""
        if not isinstance(frame, wire.Hello):
            raise wire.WireError(f"{self._socket} does not greet")
        if (frame.name, frame.model) != (self.name, self.model):
            raise wire.WireError(f"worker {frame.name!r} of model {frame.model!r} answers here")
        if frame.fingerprint != self._fingerprint:
            raise wire.WireError("its weights are not those of the model's folder: restart it")
        self._writer, self.hello = writer, frame
        _log.info("worker %s is up, process %d", self.name, frame.pid)
        if self.on_up is not None:
            self.on_up(self.name)

    def _take(self, frame: wire.FromWorker) -> None:
        match frame:
            case wire.Deltas(deltas):
                for delta in deltas:
                    if (stream := self._streams.get(delta.id)) is not None:
                        stream.put(delta)
            case wire.Report(load):
                self._load = load
            case wire.Refused(id, message):
                if (stream := self._streams.get(id)) is not None:
                    stream.fail(Busy(message))
            case wire.Exported(ref, blocks):
                if (exchange := self._exchanges.get(ref)) is not None:
                    exchange.blocks = blocks
                    exchange.end()
            case wire.Imported(ref, count):
                if (exchange := self._exchanges.get(ref)) is not None:
                    exchange.count = count
                    exchange.end()
            case wire.Hello():
                raise wire.WireError("it greets twice")

    def _lost(self) -> None:
        """End what waits for this worker; tell `on_down` once a loss."""
        was_up, self.hello, self._writer = self.ready, None, None
        self._load = LoadReport()
        streams, self._streams = self._streams, {}
        exchanges, self._exchanges = self._exchanges, {}
        for stream in streams.values():
            stream.fail(EngineFailed(f"worker {self.name!r} was lost while it answered"))
        for exchange in exchanges.values():
            exchange.fail(EngineFailed(f"worker {self.name!r} was lost"))
        if was_up and self.on_down is not None:
            self.on_down(self.name)

    def _begin_exchange(self) -> "_Exchange":
        if not self.ready:
            raise Unavailable(f"worker {self.name!r} is not connected")
        exchange = _Exchange(next(self._refs))
        self._exchanges[exchange.ref] = exchange
        return exchange

    async def _await_exchange(self, exchange: "_Exchange") -> None:
        try:
            async with asyncio.timeout(_EXCHANGE_S):
                await exchange.done
        except TimeoutError:
            raise Unavailable(f"worker {self.name!r} is too busy to hand blocks over") from None
        finally:
            self._exchanges.pop(exchange.ref, None)


class _Exchange:
    """One `Export` or `Import` that waits for its answer."""

    def __init__(self, ref: int) -> None:
        self.ref = ref
        self.blocks: list[tuple[bytes, bytes]] = []
        self.count = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def end(self) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def fail(self, error: EngineFailed) -> None:
        if not self.done.done():
            self.done.set_exception(error)
