"""The pool's process: `python -m starloom.kv.server --socket PATH --slots BYTESxCOUNT ...`.

One thread and a selector. Whatever changes the store runs one after the other, so there is nothing
to lock; a large put is received in pieces, so that other peers are answered in between. A peer that
stops in the middle of a frame, or does not read its answers, is dropped when its time is up, and
with it go its pins and reservations.
"""

import argparse
import logging
import os
import selectors
import signal
import socket
import struct
import time
from collections.abc import Sequence
from pathlib import Path

from starloom.kv import protocol
from starloom.kv.arena import Arena
from starloom.kv.errors import KvError, PoolProtocolError
from starloom.kv.layout import Layout, SlotClass
from starloom.kv.policies import POLICIES, Lru, NewPolicy
from starloom.kv.protocol import Op
from starloom.kv.remote import NodeAddress, RemotePool, Secret, client_context
from starloom.kv.remote.auth import OPEN_SECRET
from starloom.kv.remote.tier import RemoteTier
from starloom.kv.session import Session
from starloom.kv.sockets import listen_unix
from starloom.kv.ssd import SsdTier
from starloom.kv.ssd.tier import THREADS
from starloom.kv.store import Store
from starloom.kv.tiers import WAIT_S, Afar, Tiers
from starloom.process import watch_lifeline

STALL_S = 5.0
MIN_BYTES_PER_S = 16 << 20
"""A peer has `STALL_S` for each step, and longer for payload, at this rate."""
MAX_CONNECTIONS = 512
_TURN_BYTES = 4 << 20
_READ, _WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
_log = logging.getLogger("starloom.kv")


class _Peer:
    """A connection: its socket, its session, what is still to send, and when its time is up."""

    def __init__(self, sock: socket.socket, session: Session) -> None:
        self.sock = sock
        self.session = session
        self.outbox = memoryview(b"")
        self.fd_to_send: list[int] = []
        self.deadline: float | None = None
        self._step: tuple[int, bool] | None = None

    def time(self, now: float, stall_s: float) -> float | None:
        """Give each step of the peer its own deadline; None while nothing is awaited."""
        awaited = self.session.awaited_bytes
        if not awaited and not self.outbox:
            self._step = self.deadline = None
        elif self._step != (step := (self.session.phase, bool(self.outbox))):
            self._step = step
            self.deadline = now + stall_s + awaited / MIN_BYTES_PER_S
        return self.deadline


class Server:
    """A pool on a Unix socket. `serve` runs until `stop`, which any thread or signal may call."""

    def __init__(
        self,
        socket_path: Path,
        classes: Sequence[SlotClass],
        *,
        policy: NewPolicy = Lru,
        stall_s: float = STALL_S,
        ssd: SsdTier | None = None,
        afar: Afar | None = None,
        ssd_wait_s: float = WAIT_S,
        ssd_lost: bool = False,
    ) -> None:
        layout = Layout(classes)
        self._arena = Arena(layout)
        self._store = Store(layout, policy, time.monotonic)
        self._store.ssd_lost = ssd_lost
        self._tiers: Tiers | None = None
        if ssd is not None or afar is not None:
            self._tiers = Tiers(self._store, self._arena, ssd, afar=afar, wait_s=ssd_wait_s)
        self._path = socket_path
        self._stall_s = stall_s
        self._listener = listen_unix(socket_path)
        self._listener.setblocking(False)
        self._inode = socket_path.stat().st_ino
        self._peers: dict[int, _Peer] = {}
        self._wake_in, self._wake_out = os.pipe()
        os.set_blocking(self._wake_out, False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_in, _READ)
        self._selector.register(self._listener, _READ)
        if self._tiers:
            self._selector.register(self._tiers.fd, _READ)

    def stop(self) -> None:
        """Let `serve` return. May be called from a signal handler, and more than once."""
        try:
            os.write(self._wake_out, b"x")
        except BlockingIOError:
            pass  # the pipe is full of wishes to stop
        except OSError:
            _log.debug("the pool has stopped already")

    def serve(self) -> None:
        """Answer until `stop`, then close everything."""
        _log.info("pool %s: slots %s", self._path, ", ".join(map(str, self._arena.layout.classes)))
        try:
            while self._turn():
                pass
        finally:
            self._close()

    def _turn(self) -> bool:
        """Wait for something to happen and act on it. False when asked to stop."""
        for key, events in self._selector.select(self._patience()):
            if key.fd == self._wake_in:
                return False
            if key.fileobj is self._listener:
                self._accept()
            elif key.fd in self._peers:
                self._serve_peer(self._peers[key.fd], events)
        now = time.monotonic()
        self._tend(now)
        late = [peer for peer in self._peers.values() if peer.deadline and peer.deadline <= now]
        for peer in late:
            self._drop(peer, "it stopped in the middle of a frame")
        return True

    def _tend(self, now: float) -> None:
        """Let the SSD tier act, and answer those who have waited for it, or long enough."""
        if self._tiers is None:
            return
        self._tiers.tend()
        for peer in list(self._peers.values()):
            fetch = peer.session.fetch
            if fetch and (fetch.over or fetch.deadline_s <= now):
                self._selector.register(peer.sock, _READ)
                peer.outbox = memoryview(peer.session.resume())
                self._serve_peer(peer, _WRITE)

    def _patience(self) -> float | None:
        deadlines = [peer.deadline for peer in self._peers.values() if peer.deadline]
        deadlines += [
            peer.session.fetch.deadline_s for peer in self._peers.values() if peer.session.fetch
        ]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:  # the caller is gone, or descriptors are used up
            _log.warning("a connection could not be taken: %s", error)
            time.sleep(0.01)
            return
        if len(self._peers) >= MAX_CONNECTIONS or _peer_uid(sock) != os.getuid():
            _log.warning("a connection was refused: another user's, or over %d", MAX_CONNECTIONS)
            sock.close()
            return
        sock.setblocking(False)
        peer = _Peer(sock, Session(self._store, self._arena, self._tiers))
        peer.fd_to_send = [self._arena.fd]
        self._peers[sock.fileno()] = peer
        self._selector.register(sock, _READ)
        peer.time(time.monotonic(), self._stall_s)

    def _serve_peer(self, peer: _Peer, events: int) -> None:
        try:
            if events & _WRITE:
                self._flush(peer)
            if events & _READ and not peer.outbox:
                self._read(peer)
        except PoolProtocolError as error:
            _say_error(peer, str(error))
            self._drop(peer, str(error))
        except OSError as error:
            self._drop(peer, error.strerror or str(error))
        else:
            if peer.sock.fileno() >= 0:
                peer.time(time.monotonic(), self._stall_s)

    def _read(self, peer: _Peer) -> None:
        """Take what has come, at most one turn's share, until an answer has to be sent."""
        share = _TURN_BYTES
        while share > 0:
            try:
                count = peer.sock.recv_into(peer.session.buffer())
            except BlockingIOError:
                return
            if not count:
                self._drop(peer, None)
                return
            share -= count
            answer = peer.session.received(count)
            if answer:
                peer.outbox = memoryview(answer)
                self._flush(peer)
                return
            if peer.session.fetch:
                self._selector.unregister(peer.sock)  # what it sends next waits for the answer
                return

    def _flush(self, peer: _Peer) -> None:
        """Send what there is to send; while something is left, read nothing from this peer."""
        try:
            if peer.fd_to_send:
                sent = socket.send_fds(peer.sock, [peer.outbox], peer.fd_to_send)
                peer.fd_to_send = []
            else:
                sent = peer.sock.send(peer.outbox)
        except BlockingIOError:
            sent = 0
        peer.outbox = peer.outbox[sent:]
        wanted = _WRITE if peer.outbox else _READ
        if self._selector.get_key(peer.sock).events != wanted:
            self._selector.modify(peer.sock, wanted)

    def _drop(self, peer: _Peer, why: str | None) -> None:
        if why:
            _log.warning("a connection was closed: %s", why)
        if not peer.session.fetch:
            self._selector.unregister(peer.sock)
        del self._peers[peer.sock.fileno()]
        peer.sock.close()
        peer.session.close()

    def _close(self) -> None:
        for peer in list(self._peers.values()):
            self._drop(peer, None)
        if self._tiers:
            self._tiers.close()
        self._selector.close()
        self._listener.close()
        if self._path.exists() and self._path.stat().st_ino == self._inode:
            self._path.unlink()
        self._arena.close()
        wake_out, self._wake_out = self._wake_out, -1
        os.close(wake_out)
        os.close(self._wake_in)


def _peer_uid(sock: socket.socket) -> int:
    form = struct.Struct("3i")
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, form.size)
    uid: int = form.unpack(credentials)[1]
    return uid


def _say_error(peer: _Peer, message: str) -> None:
    """Tell the peer why it is dropped, if it listens."""
    try:
        peer.sock.send(protocol.answer(Op.ERROR, 0, message.encode()))
    except OSError:
        _log.debug("the peer did not listen to: %s", message)


def _ssd(options: argparse.Namespace) -> SsdTier | None:
    """The SSD tier, or None where none is asked for. A disk that fails is no reason not to start.

    Raises `SegmentInUse`: two pools on one file are a fault of the site.
    """
    if options.ssd is None or not options.ssd_slots:
        return None
    try:
        return SsdTier(options.ssd, options.ssd_slots, threads=options.ssd_threads)
    except OSError as error:
        _log.error("the pool runs without its SSD tier: %s: %s", options.ssd, error)
        return None


def _afar(options: argparse.Namespace) -> RemoteTier | None:
    """The nodes, or None where none are named. Nodes that do not answer are no reason not to start.

    Raises `BadSecret` and ValueError: a fault of the site.
    """
    if not options.node and options.nodes_file is None:
        return None
    secret = Secret.read(options.tenant, options.key_file) if options.key_file else OPEN_SECRET
    pool = RemotePool(
        options.node,
        secret=secret,
        timeout_s=options.node_timeout_s,
        tls=client_context(options.ca) if options.ca else None,
        nodes_file=options.nodes_file,
    )
    return RemoteTier(pool)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a pool until SIGTERM, SIGINT or the end of the supervisor."""
    parser = argparse.ArgumentParser(prog="python -m starloom.kv.server", description=__doc__)
    parser.add_argument("--socket", type=Path, required=True, help="where clients connect")
    parser.add_argument(
        "--slots",
        type=SlotClass.parse,
        action="append",
        required=True,
        metavar="BYTESxCOUNT",
        help="a slot class; repeat it for models with other block sizes",
    )
    parser.add_argument("--policy", choices=sorted(POLICIES), default="lru", help="what goes first")
    parser.add_argument("--stall-s", type=float, default=STALL_S, help="patience with a peer")
    parser.add_argument("--ssd", type=Path, help="a folder for the SSD tier's files")
    parser.add_argument(
        "--ssd-slots",
        type=SlotClass.parse,
        action="append",
        default=[],
        metavar="BYTESxCOUNT",
        help="a slot class on disk; repeat it",
    )
    parser.add_argument("--ssd-threads", type=int, default=THREADS, help="for disk I/O")
    parser.add_argument("--ssd-wait-s", type=float, default=WAIT_S, help="a get waits for disk")
    parser.add_argument(
        "--node",
        type=NodeAddress.read,
        action="append",
        default=[],
        metavar="NAME=ADDRESS[*WEIGHT]",
        help="a remote node; repeat it",
    )
    parser.add_argument("--nodes-file", type=Path, help="a list of nodes, read when it changes")
    parser.add_argument("--tenant", default="open", help="who this host is to the nodes")
    parser.add_argument("--key-file", type=Path, help="that tenant's key")
    parser.add_argument("--ca", type=Path, help="certificates that sign those of tls:// nodes")
    parser.add_argument("--node-timeout-s", type=float, default=1.0, help="for a call to a node")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        ssd = _ssd(options)
        server = Server(
            options.socket,
            options.slots,
            policy=POLICIES[options.policy],
            stall_s=options.stall_s,
            ssd=ssd,
            ssd_wait_s=options.ssd_wait_s,
            ssd_lost=bool(options.ssd and not ssd),
            afar=_afar(options),
        )
    except (KvError, OSError, ValueError) as error:
        _log.error("the pool cannot start: %s", error)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop())
    watch_lifeline()
    server.serve()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
