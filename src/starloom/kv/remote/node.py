"""A node: listeners, a thread a connection, and one that keeps house.

    acceptors ── a `Service` a connection ──> `Depot` (store, arena, SSD tier)
    keeper    ── tenants that changed, connections of those that are gone, counts

On TCP beyond loopback a node wants tenants: whoever can reach it could otherwise read every block.
"""

import ipaddress
import logging
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from starloom import __version__
from starloom.kv.channel import Channel
from starloom.kv.errors import BadSecret, PoolProtocolError
from starloom.kv.layout import SlotClass
from starloom.kv.policies import Lru, NewPolicy
from starloom.kv.remote.auth import Tenants
from starloom.kv.remote.base import Endpoint, NodeStat, State, TenantStat
from starloom.kv.remote.depot import Depot
from starloom.kv.remote.frames import Op
from starloom.kv.remote.link import UNIX_BUFFER_BYTES, tune
from starloom.kv.remote.metrics import NodeMetrics, Pages
from starloom.kv.remote.service import STALL_S, Service
from starloom.kv.sockets import listen_unix
from starloom.kv.ssd import SsdTier
from starloom.kv.tiers import WAIT_S

MAX_CONNECTIONS = 512
KEEP_S = 1.0
DRAIN_S = 2.5
_STOP_S = 5.0
_log = logging.getLogger("starloom.kv.remote")


class Node:
    """`start`, then `stop`. `endpoints` are where it listens, with the ports that it got."""

    def __init__(
        self,
        name: str,
        listen: Sequence[Endpoint],
        classes: Sequence[SlotClass],
        *,
        tenants: Tenants | None = None,
        tls: ssl.SSLContext | None = None,
        policy: NewPolicy = Lru,
        ssd: SsdTier | None = None,
        ssd_wait_s: float = WAIT_S,
        ssd_lost: bool = False,
        pages_port: int | None = None,
        stall_s: float = STALL_S,
        max_connections: int = MAX_CONNECTIONS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes memory and addresses. Raises `NoSharedMemory`, OSError and ValueError."""
        self.name = name
        self.tenants = tenants or Tenants()
        _check(listen, self.tenants, tls)
        self._tls, self._stall_s, self._most, self._clock = tls, stall_s, max_connections, clock
        self._began_s = clock()
        self._lock = threading.Condition()
        self._counts: dict[str, TenantStat] = {}
        self._services: dict[Service, Channel] = {}
        self._open = 0
        """Connections, those included that have not said who they are."""
        self._threads: list[threading.Thread] = []
        self._end = threading.Event()
        self._leaving = False
        self._listeners: list[socket.socket] = []
        self.endpoints: list[Endpoint] = []
        self._paths: list[tuple[Path, int]] = []
        self._pages: Pages | None = None
        self.depot = Depot(
            classes, policy=policy, ssd=ssd, ssd_wait_s=ssd_wait_s, ssd_lost=ssd_lost, clock=clock
        )
        self._metrics = NodeMetrics(lambda: self.stat(None))
        try:
            for endpoint in listen:
                self._listen(endpoint)
            if pages_port is not None:
                self._pages = Pages(pages_port, lambda: self.stat(None), self._metrics)
        except BaseException:
            self.stop()
            raise

    @property
    def leaving(self) -> bool:
        return self._leaving

    @property
    def pages_port(self) -> int | None:
        return self._pages.port if self._pages else None

    def start(self) -> None:
        for listener, endpoint in zip(self._listeners, self.endpoints, strict=True):
            self._run(self._accept, listener, endpoint)
        self._run(self._keep)
        places = ", ".join(map(str, self.endpoints))
        _log.info("node %s at %s: slots %s", self.name, places, self.depot.layout.classes)

    def leave(self) -> None:
        """Tell heartbeats that the node is about to stop, so that nobody runs into its end."""
        self._leaving = True

    def stop(self) -> None:
        """End all connections, give memory and addresses back. May be called twice."""
        if self._end.is_set():
            return
        self._end.set()
        if self._pages is not None:
            self._pages.close()
        for listener in self._listeners:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
            listener.close()
        with self._lock:
            for channel in self._services.values():
                channel.abort()
        for thread in self._threads:
            thread.join(_STOP_S)
        with self._lock:
            ended = self._lock.wait_for(lambda: not self._open, _STOP_S)
        for path, inode in self._paths:
            if path.exists() and path.stat().st_ino == inode:  # and not one who took our place
                path.unlink()
        if ended:
            self.depot.close()
        else:
            _log.warning("the node was left with %d connections that do not end", self._open)

    def counts(self, tenant: str) -> TenantStat:
        with self._lock:
            return self._counts.setdefault(tenant, TenantStat())

    def took(self, op: Op, seconds: float) -> None:
        self._metrics.took(op, seconds)

    def stat(self, tenant: str | None) -> NodeStat:
        """All of it for the operator (None); for a tenant what is its own."""
        why = self._why_ill()
        state: State = "ill" if why else "leaving" if self._leaving else "well"
        operator = tenant is None or self.tenants.open
        with self._lock:
            tenants = dict(self._counts)
            connections = len(self._services)
        mine = _sum(tenants.values()) if tenant is None else self.counts(tenant)
        return NodeStat(
            name=self.name,
            version=__version__,
            uptime_s=self._clock() - self._began_s,
            state=state,
            why=why,
            classes=[(size, slots) for size, slots in self.depot.layout.classes],
            tenant=mine,
            tenants=tenants if operator else {},
            pool=self.depot.stat() if operator else None,
            connections=connections if operator else 0,
        )

    def _why_ill(self) -> str:
        for thread in self._threads:
            if not thread.is_alive() and not self._end.is_set():
                return f"the thread {thread.name!r} has died"
        return self.depot.why_ill()

    def _listen(self, endpoint: Endpoint) -> None:
        if endpoint.path is not None:
            # Tenants prove who they are, whichever user they run as; without them it is ours alone.
            mode = 0o600 if self.tenants.open else 0o666
            listener = listen_unix(endpoint.path, mode)
            self._paths.append((endpoint.path, endpoint.path.stat().st_ino))
        else:
            family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
            listener = socket.create_server((endpoint.host, endpoint.port), family=family)
            endpoint = endpoint._replace(port=listener.getsockname()[1])
        listener.setblocking(True)
        self._listeners.append(listener)
        self.endpoints.append(endpoint)

    def _run(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(
            target=target, args=args, name=f"kv{target.__name__}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket, endpoint: Endpoint) -> None:
        while not self._end.is_set():
            try:
                sock, _ = listener.accept()
            except OSError as error:
                if self._end.is_set():
                    return
                _log.warning("a connection could not be taken: %s", error)
                self._end.wait(0.05)
                continue
            with self._lock:
                full = self._open >= self._most
                self._open += not full
            if full:
                _log.warning("a connection was refused: %d are open", self._most)
                sock.close()
                continue
            threading.Thread(
                target=self._serve, args=(sock, endpoint), name="kv-serve", daemon=True
            ).start()

    def _serve(self, sock: socket.socket, endpoint: Endpoint) -> None:
        try:
            service, channel = self._begin(sock, endpoint)
        except OSError as error:  # such as a TLS handshake with somebody else
            _log.warning("a connection was closed: %s", error)
            sock.close()
            self._closed_one()
            return
        try:
            service.run()
        except PoolProtocolError as error:
            _log.warning("a connection was closed: %s", error)
            with suppress(OSError):
                service.refuse(str(error))
        except OSError as error:
            if not self._end.is_set():
                _log.warning("a connection was closed: %s", error)
        finally:
            with self._lock:
                self._services.pop(service, None)
            channel.close()
            self._closed_one()

    def _closed_one(self) -> None:
        with self._lock:
            self._open -= 1
            self._lock.notify_all()

    def _begin(self, sock: socket.socket, endpoint: Endpoint) -> tuple[Service, Channel]:
        if endpoint.path is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNIX_BUFFER_BYTES)
        else:
            tune(sock)
        if endpoint.tls and self._tls is not None:
            sock.settimeout(self._stall_s)
            sock = self._tls.wrap_socket(sock, server_side=True)
        channel = Channel(sock)
        service = Service(self, channel, stall_s=self._stall_s, clock=self._clock)
        with self._lock:
            self._services[service] = channel
        if self._end.is_set():
            channel.abort()
        return service, channel

    def _keep(self) -> None:
        """Keep house; its death shows on /health."""
        while not self._end.wait(KEEP_S):
            try:
                changed = self.tenants.refresh()
            except BadSecret as error:
                _log.error("the tenants stay as they were: %s", error)
                changed = False
            if changed:
                self._expel()
            self.depot.sweep()

    def _expel(self) -> None:
        """End the connections of keys that are known no more."""
        with self._lock:
            for service, channel in self._services.items():
                tenant, verifier = service.tenant, service.verifier
                if tenant and verifier and not self.tenants.knows(tenant, verifier):
                    _log.info("a key of tenant %s is known no more", tenant)
                    channel.abort()


def serve_node(node: Node, *, drain_s: float = DRAIN_S) -> None:
    """Run a node in this process until SIGTERM or SIGINT; its clients hear of the end before it."""
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.set())
    node.start()
    while not asked.wait(1.0):
        pass
    node.leave()
    time.sleep(drain_s)
    node.stop()


def _check(listen: Sequence[Endpoint], tenants: Tenants, tls: ssl.SSLContext | None) -> None:
    if not listen:
        raise ValueError("a node needs an address to listen on")
    for endpoint in listen:
        if endpoint.tls and tls is None:
            raise ValueError(f"{endpoint}: name a certificate and its key")
        if tenants.open and endpoint.path is None and not _loopback(endpoint.host):
            raise ValueError(
                f"{endpoint} can be reached by others: name a tenants file "
                f"(`starloom kv key NAME` makes its lines), or listen on 127.0.0.1"
            )


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _sum(counts: Iterable[TenantStat]) -> TenantStat:
    total = TenantStat()
    for each in counts:
        for field in TenantStat.__struct_fields__:
            setattr(total, field, getattr(total, field) + getattr(each, field))
    return total
