"""KV events over ZeroMQ: the shell around `EventReader`. One task a publisher, sockets and timers.

libzmq reconnects by itself, and its queues are bounded: what does not fit is dropped there and
shows as a jump. Heartbeats find connections that are dead without saying so.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from starloom.serve.signals.base import (
    Cleared,
    KeySink,
    NeedReplay,
    Operation,
    Removed,
    Stored,
    Tier,
)
from starloom.serve.signals.blocks import Link, chains
from starloom.serve.signals.errors import NoZmq
from starloom.serve.signals.reader import EventReader

if TYPE_CHECKING:
    import zmq.asyncio

_log = logging.getLogger(__name__)

STALE_S = 30.0
"""A publisher that is away for so long is no longer believed."""
REPLAY_TIMEOUT_S = 5.0
"""The longest pause within a replay. vLLM's publisher looks for requests ten times a second."""
_PAUSE_S = 5.0
_HEARTBEAT_MS = 5_000
_HIGH_WATER = 10_000
_AT_ONCE = 16
_MAX_MESSAGE_BYTES = 64 << 20


class Publisher(NamedTuple):
    """Where one data-parallel rank publishes, and where it replays."""

    endpoint: str
    replay_endpoint: str | None = None

    def of_rank(self, rank: int) -> "Publisher":
        """The rank is added to the port, as vLLM and SGLang do."""
        return Publisher(
            _shifted(self.endpoint, rank),
            None if self.replay_endpoint is None else _shifted(self.replay_endpoint, rank),
        )


class KvEventSource:
    """Keeps a sink told of what one worker holds, from `start` to `close`.

    `reader`: makes a reader; called once a publisher. A block is held by the worker while one of
    its ranks holds it.
    """

    def __init__(
        self,
        worker: str,
        publishers: Sequence[Publisher],
        reader: Callable[[], EventReader],
        sink: KeySink,
        *,
        topic: str = "",
        stale_s: float = STALE_S,
        replay_timeout_s: float = REPLAY_TIMEOUT_S,
    ) -> None:
        self.worker = worker
        self.readers = [reader() for _ in publishers]
        """One a publisher. Their counts are for metrics."""
        self._publishers = publishers
        self._union = _Union(worker, len(publishers), sink)
        self._limits = _Limits(topic, stale_s, replay_timeout_s)
        self._ranks: list[_Rank] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._context: zmq.asyncio.Context | None = None

    @property
    def live(self) -> bool:
        """Whether every publisher is connected and none waits for a replay."""
        return bool(self._ranks) and all(rank.live for rank in self._ranks)

    @property
    def held(self) -> int:
        """Blocks that are believed to be held, over ranks and tiers."""
        return sum(map(len, self.readers))

    def retell(self) -> None:
        """Tell the sink again all that is believed, after it forgot this worker by itself.

        A schedule forgets a worker that fails a health check; the server may have lost nothing.
        """
        self._union.retell([reader.held() for reader in self.readers])

    async def start(self) -> None:
        """Begin to listen. Returns at once. Raises `NoZmq`."""
        if self._tasks:
            return
        try:
            import zmq.asyncio
        except ImportError as error:
            raise NoZmq(
                f"worker {self.worker!r} has kv_events, which need pyzmq: "
                "pip install 'starloom[events]'"
            ) from error
        context = self._context = zmq.asyncio.Context()
        for at, publisher in enumerate(self._publishers):
            name = f"{self.worker}/{at}"
            rank = _Rank(name, at, publisher, self.readers[at], self._union, self._limits, context)
            self._ranks.append(rank)
            self._tasks.append(asyncio.create_task(rank.run(), name=f"kv events {name}"))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._tasks.clear()
        self._ranks.clear()
        if self._context is not None:
            self._context.destroy(linger=0)
            self._context = None


class _Limits(NamedTuple):
    topic: str
    stale_s: float
    replay_timeout_s: float


class _Union:
    """Sinks know workers, not ranks: a key is held while one rank holds it."""

    def __init__(self, worker: str, ranks: int, sink: KeySink) -> None:
        self._worker = worker
        self._sink = sink
        self._held: list[dict[Tier, set[bytes]]] = []
        """What each rank holds; empty for a single one, which needs no books."""
        if ranks > 1:
            self._held = [{"hbm": set(), "dram": set(), "ssd": set()} for _ in range(ranks)]

    def stored(self, rank: int, told: Stored) -> None:
        if not self._held:
            self._sink.stored(self._worker, told.parent, told.keys, told.tier)
            return
        new = set(self._others_lack(rank, told.tier, told.keys))
        self._held[rank][told.tier].update(told.keys)
        links = (Link(*pair) for pair in zip([told.parent, *told.keys], told.keys, strict=False))
        for chain in chains(link for link in links if link.key in new):
            keys = [link.key for link in chain]
            self._sink.stored(self._worker, chain[0].parent, keys, told.tier)

    def removed(self, rank: int, tier: Tier, keys: Sequence[bytes]) -> None:
        if self._held:
            self._held[rank][tier].difference_update(keys)
            keys = self._others_lack(rank, tier, keys)
        if keys:
            self._sink.removed(self._worker, keys, tier)

    def cleared(self, rank: int) -> None:
        if not self._held:
            self._sink.cleared(self._worker)
            return
        for tier, held in self._held[rank].items():
            self.removed(rank, tier, list(held))

    def retell(self, held: Sequence[Sequence[Stored]]) -> None:
        """Once more what every rank holds; books as they were before anything was told."""
        self._sink.cleared(self._worker)
        for books in self._held:
            books.update({tier: set() for tier in books})
        for rank, all_told in enumerate(held):
            for told in all_told:
                self.stored(rank, told)

    def _others_lack(self, rank: int, tier: Tier, keys: Sequence[bytes]) -> list[bytes]:
        others = [held[tier] for at, held in enumerate(self._held) if at != rank]
        return [key for key in keys if not any(key in held for held in others)]


class _Rank:
    """One publisher: its subscription, its replays, and when it was last there."""

    def __init__(
        self,
        name: str,
        rank: int,
        publisher: Publisher,
        reader: EventReader,
        union: _Union,
        limits: _Limits,
        context: "zmq.asyncio.Context",
    ) -> None:
        import zmq.asyncio

        self._name = name
        self._rank = rank
        self._publisher = publisher
        self._reader = reader
        self._union = union
        self._limits = limits
        self._context = context
        self._poller = zmq.asyncio.Poller()
        self._connected = False
        self._gone_at: float | None = None
        self._replay: zmq.asyncio.Socket | None = None
        self._replay_due: float | None = None
        self._told_problem = False

    @property
    def live(self) -> bool:
        return self._connected and self._replay is None

    async def run(self) -> None:
        """Listen for ever, and again after whatever goes wrong with the sockets."""
        import zmq

        while True:
            try:
                await self._listen()
            except zmq.ZMQError as error:
                self._connected, self._gone_at = False, None
                self._do(self._reader.lost())
                _log.error("kv events %s: %s: %s", self._name, self._publisher.endpoint, error)
                await asyncio.sleep(_PAUSE_S)

    async def _listen(self) -> None:
        import zmq
        import zmq.asyncio

        self._poller = zmq.asyncio.Poller()
        events = self._context.socket(zmq.SUB)
        for option, value in (
            (zmq.RCVHWM, _HIGH_WATER),
            (zmq.MAXMSGSIZE, _MAX_MESSAGE_BYTES),
            (zmq.RECONNECT_IVL, 100),
            (zmq.RECONNECT_IVL_MAX, 5_000),
            (zmq.HEARTBEAT_IVL, _HEARTBEAT_MS),
            (zmq.HEARTBEAT_TIMEOUT, 2 * _HEARTBEAT_MS),
            (zmq.LINGER, 0),
        ):
            events.setsockopt(option, value)
        events.setsockopt(zmq.SUBSCRIBE, self._limits.topic.encode())
        monitor = events.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        self._poller.register(events, zmq.POLLIN)
        self._poller.register(monitor, zmq.POLLIN)
        events.connect(self._publisher.endpoint)
        try:
            while True:
                for socket, _ in await self._poller.poll(self._wait_ms()):
                    if socket is monitor:
                        await self._on_monitor(monitor)
                    elif socket is events:
                        for frames in await _waiting(events):
                            self._do(self._reader.feed(frames))
                    elif self._replay is not None and socket is self._replay:
                        for frames in await _waiting(self._replay):
                            self._on_replay(frames)
                self._on_time()
        finally:
            self._end_replay()
            events.disable_monitor()
            events.close(linger=0)

    async def _on_monitor(self, monitor: Any) -> None:
        import zmq
        from zmq.utils.monitor import parse_monitor_message

        event = parse_monitor_message(await monitor.recv_multipart())["event"]
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._connected, self._gone_at = True, None
            _log.info("kv events %s: connected", self._name)
            self._end_replay()
            self._do(self._reader.connected())
        elif self._connected:
            self._connected, self._gone_at = False, self._now()
            _log.warning("kv events %s: connection lost", self._name)

    def _on_replay(self, frames: Sequence[bytes]) -> None:
        self._replay_due = self._now() + self._limits.replay_timeout_s
        if len(frames) > 1 and frames[-2][:1] >= b"\x80":  # a negative number is the end
            self._end_replay()
        self._do(self._reader.feed_replay(frames))

    def _on_time(self) -> None:
        now = self._now()
        if self._replay_due is not None and now >= self._replay_due:
            _log.warning("kv events %s: no replay from %s", self._name, self._publisher[1])
            self._end_replay()
            self._do(self._reader.replay_failed())
        if self._gone_at is not None and now >= self._gone_at + self._limits.stale_s:
            self._gone_at = None
            self._end_replay()
            self._do(self._reader.lost())
            _log.warning(
                "kv events %s: away for %.0f s, forgotten", self._name, self._limits.stale_s
            )

    def _do(self, operations: Sequence[Operation]) -> None:
        for operation in operations:
            if isinstance(operation, Stored):
                self._union.stored(self._rank, operation)
            elif isinstance(operation, Removed):
                self._union.removed(self._rank, operation.tier, operation.keys)
            elif isinstance(operation, Cleared):
                self._union.cleared(self._rank)
            elif isinstance(operation, NeedReplay):
                self._ask(operation.start)
        if not self._told_problem and (problem := self._reader.problem) is not None:
            self._told_problem = True
            _log.error("kv events %s are of no use: %s", self._name, problem)

    def _ask(self, start: int) -> None:
        """Ask for a replay. A new socket each time, so that no late answer is taken for this one's.

        A DEALER with an empty frame is a REQ that may get many answers.
        """
        import zmq

        self._end_replay()
        replay = self._replay = self._context.socket(zmq.DEALER)
        replay.setsockopt(zmq.LINGER, 0)
        replay.setsockopt(zmq.MAXMSGSIZE, _MAX_MESSAGE_BYTES)
        replay.setsockopt(zmq.RCVHWM, 0)  # the server would drop, and the replay be worth nothing
        replay.connect(self._publisher.replay_endpoint or "")
        self._poller.register(replay, zmq.POLLIN)
        replay.send_multipart([b"", start.to_bytes(8, "big")])
        self._replay_due = self._now() + self._limits.replay_timeout_s

    def _end_replay(self) -> None:
        if self._replay is not None:
            self._poller.unregister(self._replay)
            self._replay.close(linger=0)
        self._replay = self._replay_due = None

    def _wait_ms(self) -> int:
        """Until the next deadline, or long."""
        due = [] if self._replay_due is None else [self._replay_due]
        if self._gone_at is not None:
            due.append(self._gone_at + self._limits.stale_s)
        if not due:
            return 60_000
        return max(1, int((min(due) - self._now()) * 1e3) + 1)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()


async def _waiting(socket: "zmq.asyncio.Socket") -> list[list[bytes]]:
    """Messages that are there, at most `_AT_ONCE`: asking the loop for each would cost more."""
    import zmq

    messages: list[list[bytes]] = []
    with contextlib.suppress(zmq.Again):
        while len(messages) < _AT_ONCE:
            messages.append(await socket.recv_multipart(zmq.NOBLOCK))
    return messages


def _shifted(endpoint: str, rank: int) -> str:
    address, _, port = endpoint.rpartition(":")
    return f"{address}:{int(port) + rank}"
