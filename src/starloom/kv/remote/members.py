"""The nodes that a client knows: which are up, and connections to each.

A heartbeat a node, over a connection of its own. A node that does not answer drops out of placement
at once, as does one whose circuit is open; the keys that it had go to the next in their ranking and
come back with it. Nobody agrees with anybody about this: two clients that see it otherwise for a
while only miss. All times are of a monotonic clock.
"""

import logging
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from starloom.kv.channel import Deadline
from starloom.kv.errors import KvError, PoolProtocolError, PoolUnavailable
from starloom.kv.remote.auth import Secret
from starloom.kv.remote.base import NodeAddress, Seen, parse
from starloom.kv.remote.circuit import Circuit
from starloom.kv.remote.link import Link, Transfer, connect

BEAT_S = 1.0
BEAT_TIMEOUT_S = 1.0
"""A node that does not answer a heartbeat within this is out."""
CONNECTIONS = 4
_RATE_SHARE, _HOPE = 0.25, 1.25
_IDLE_S = 300.0
"""Half of what a node waits for the next question."""
_log = logging.getLogger("starloom.kv.remote")


class Member:
    """One node: its circuit, its idle connections, what its heartbeat says. Thread-safe."""

    def __init__(
        self,
        node: NodeAddress,
        secret: Secret,
        tls: ssl.SSLContext | None,
        *,
        connections: int = CONNECTIONS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.node = node
        self._endpoint = parse(node.address)
        self._secret, self._tls = secret, tls
        self._clock = clock
        self._most = connections
        self._lock = threading.Condition()
        self._idle: list[tuple[float, Link]] = []
        """Connections by when they were used last, the latest at the end."""
        self._open = 0
        self._pid = os.getpid()
        self._circuit = Circuit()
        self._alive, self._why = True, ""
        self.rtt_s = 0.0
        self.bytes_per_s = 0.0

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def weight(self) -> float:
        return self.node.weight

    @property
    def up(self) -> bool:
        """Whether blocks are placed here now."""
        return self._alive and self._circuit.usable(self._clock())

    def seen(self) -> Seen:
        why = self._why or self._circuit.why
        return Seen(
            name=self.name,
            address=self.node.address,
            weight=self.weight,
            up=self.up,
            why=why,
            rtt_s=self.rtt_s,
            bytes_per_s=self.bytes_per_s,
        )

    @contextmanager
    def link(self, deadline: Deadline, transfer: Transfer | None = None) -> Iterator[Link]:
        """A connection for one question and its answer. Raises `PoolUnavailable`.

        A transfer that ran out of time but brought blocks is no failure of the node.
        """
        with self._lock:
            self._room(deadline)
            if not deadline.rest_s():
                raise PoolUnavailable(f"node {self.name!r}: no time is left to ask it")
            if not self._circuit.begin(self._clock()):
                raise PoolUnavailable(f"node {self.name!r} is left alone: {self._circuit.why}")
            self._open += 1
            link = self._take_idle()
        try:
            if link is None:
                link = self.connect(deadline)
            yield link
        except (OSError, PoolProtocolError, PoolUnavailable) as error:
            with self._lock:
                if not (isinstance(error, TimeoutError) and transfer and transfer.good):
                    self._circuit.failed(self._clock(), str(error))
            raise PoolUnavailable(f"node {self.name!r} at {self.node.address}: {error}") from error
        else:
            with self._lock:
                self._circuit.worked()
                if self._alive:
                    self._idle.append((self._clock(), link))
                    link = None
        finally:
            if link is not None:
                link.close()
            with self._lock:
                self._open -= 1
                self._lock.notify()

    def measured(self, transfer: Transfer, seconds: float) -> None:
        """Learn the rate at which blocks come."""
        if transfer.bytes < 1 << 20 or seconds <= 0:
            return
        rate = transfer.bytes / seconds
        old = self.bytes_per_s or rate
        self.bytes_per_s = old + _RATE_SHARE * (rate - old)

    def hope(self) -> None:
        """Nothing was asked because it would not have come in time: some day it may."""
        self.bytes_per_s *= _HOPE

    def connect(self, deadline: Deadline) -> Link:
        """A new connection, which nobody shares. Raises OSError and `KvError`."""
        channel = connect(self._endpoint, self._tls, deadline)
        try:
            return Link(channel, self._secret, deadline)
        except BaseException:
            channel.close()
            raise

    def beat(self, deadline: Deadline, link: Link | None = None) -> Link | None:
        """One heartbeat over a link (or a new one); the link, or None where it broke."""
        try:
            link = link or self.connect(deadline)
            began_s = self._clock()
            stays = link.ping(deadline)
        except (OSError, KvError) as error:
            if link is not None:
                link.close()
            self._lost(str(error))
            return None
        if stays:
            self._told(self._clock() - began_s)
        else:
            self._lost("it is about to leave")
        return link

    def _told(self, rtt_s: float) -> None:
        """The heartbeat was answered."""
        with self._lock:
            if not self._alive:
                self._circuit.worked()  # it is back: what failed was the one before
                _log.info("node %s is up", self.name)
            self._alive, self._why, self.rtt_s = True, "", rtt_s

    def _lost(self, why: str) -> None:
        """The heartbeat was not answered, or the node leaves."""
        with self._lock:
            if self._alive and why != self._why:
                _log.warning("node %s is out: %s", self.name, why)
            self._alive, self._why = False, why
            self._drop_idle()

    def close(self) -> None:
        with self._lock:
            self._alive, self._why = False, "closed"
            self._drop_idle()

    def _room(self, deadline: Deadline) -> None:
        """Under the lock: wait until one more connection may be used."""
        if self._pid != os.getpid():  # a fork: the connections are the parent's
            self._pid, self._open = os.getpid(), 0
            self._drop_idle()
        if not self._lock.wait_for(lambda: self._open < self._most, deadline.rest_s()):
            raise PoolUnavailable(f"node {self.name!r}: other calls take all its connections")

    def _take_idle(self) -> Link | None:
        """The connection used last, unless the node may have given it up by now."""
        if self._idle and self._clock() - self._idle[-1][0] > _IDLE_S:
            self._drop_idle()
        return self._idle.pop()[1] if self._idle else None

    def _drop_idle(self) -> None:
        idle, self._idle = self._idle, []
        for _, link in idle:
            link.close()


class Members:
    """All nodes, from a list or from a file that is read again when it changes."""

    def __init__(
        self,
        nodes: Sequence[NodeAddress],
        secret: Secret,
        tls: ssl.SSLContext | None = None,
        *,
        nodes_file: Path | None = None,
        beat_s: float = BEAT_S,
        connections: int = CONNECTIONS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`beat_s` of 0: no heartbeats. Raises ValueError for nodes that cannot be."""
        self._secret, self._tls = secret, tls
        self._connections, self._clock = connections, clock
        self._file, self._beat_s = nodes_file, beat_s
        self._end = threading.Event()
        self._beats: dict[str, threading.Event] = {}
        self._members: dict[str, Member] = {}
        self._stamp: tuple[int, int] | None = None
        if nodes_file is not None:
            self._stamp = _stamp(nodes_file)
            nodes = [*nodes, *read_nodes(nodes_file)]
        self._set(nodes)
        if nodes_file is not None and beat_s:
            threading.Thread(target=self._watch, name="kv-nodes-file", daemon=True).start()

    def __iter__(self) -> Iterator[Member]:
        return iter(list(self._members.values()))

    def up(self) -> list[Member]:
        """Those that blocks are placed on now."""
        return [member for member in self if member.up]

    def close(self) -> None:
        """End heartbeats and connections."""
        self._end.set()
        for beat in self._beats.values():
            beat.set()
        for member in self:
            member.close()

    def _set(self, nodes: Sequence[NodeAddress]) -> None:
        names = [node.name for node in nodes]
        if len(set(names)) != len(names):
            raise ValueError(f"nodes {names}: give each a name of its own")
        new = {node.name: node for node in nodes}
        for name, member in list(self._members.items()):
            if new.get(name) != member.node:
                if name in self._beats:
                    self._beats.pop(name).set()
                self._members.pop(name).close()
        for name, node in new.items():
            if name not in self._members:
                member = Member(
                    node, self._secret, self._tls, connections=self._connections, clock=self._clock
                )
                self._members[name] = member
                if self._beat_s:
                    self._beats[name] = end = threading.Event()
                    threading.Thread(
                        target=self._beat, args=(member, end), name=f"kv-beat-{name}", daemon=True
                    ).start()

    def _beat(self, member: Member, end: threading.Event) -> None:
        link: Link | None = None
        while not end.is_set():
            link = member.beat(Deadline(self._clock, BEAT_TIMEOUT_S), link)
            end.wait(self._beat_s)
        if link is not None:
            link.close()

    def _watch(self) -> None:
        while not self._end.wait(self._beat_s):
            stamp = _stamp(self._file)
            if self._file is None or stamp is None or stamp == self._stamp:
                continue
            self._stamp = stamp
            try:
                self._set(read_nodes(self._file))
            except ValueError as error:
                _log.error("the nodes stay as they were: %s", error)


def read_nodes(path: Path) -> list[NodeAddress]:
    """A YAML or JSON list of name, address and weight. Raises ValueError."""
    try:
        return msgspec.yaml.decode(path.read_bytes(), type=list[NodeAddress])
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise ValueError(f"{path}: {error}") from error


def _stamp(path: Path | None) -> tuple[int, int] | None:
    with suppress(OSError):
        if path is not None:
            stat = path.stat()
            return stat.st_mtime_ns, stat.st_ino
    return None
