"""One connection of a client to a node: proofs first, then questions and answers.

Raises OSError, `PoolProtocolError` and `NotAdmitted`; whoever uses a link closes it on every error,
so that a late answer is never taken for the answer to a later question. Not thread-safe.
"""

import secrets
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import xxhash

from starloom.kv.channel import CHUNK_BYTES, Channel, Deadline
from starloom.kv.errors import NotAdmitted, PoolProtocolError
from starloom.kv.layout import Layout
from starloom.kv.protocol import unpack_classes, unpack_count, unpack_positions
from starloom.kv.remote import frames
from starloom.kv.remote.auth import Secret
from starloom.kv.remote.base import Endpoint, NodeStat
from starloom.kv.remote.frames import Op, Row

UNIX_BUFFER_BYTES = 4 << 20


@dataclass(slots=True)
class Transfer:
    """What has come of a GET, also when it ends half way."""

    rows: list[Row] = field(default_factory=list)
    good: int = 0
    """Leading blocks that are whole and have the right sum."""
    bytes: int = 0


class Link:
    """An authenticated connection."""

    def __init__(self, channel: Channel, secret: Secret, deadline: Deadline) -> None:
        """Say hello over a connected channel; both sides prove who they are."""
        self._channel = channel
        self._request = 0
        hello = frames.pack_hello(secrets.token_bytes(frames.NONCE_BYTES), secret.tenant)
        challenge = self._call(Op.HELLO, hello, deadline)
        self.node = frames.unpack_challenge(challenge).node
        transcript = hello + challenge
        proof = secret.proof(transcript)
        try:
            welcome = self._call(Op.PROOF, proof, deadline)
        except PoolProtocolError as error:
            raise NotAdmitted(f"tenant {secret.tenant!r}: {error}") from error
        if not secret.signed(transcript, proof, welcome[: frames.PROOF_BYTES]):
            raise NotAdmitted(f"{self.node!r} does not prove that it knows {secret.tenant!r}")
        self.layout: Layout = unpack_classes(welcome[frames.PROOF_BYTES :])

    def close(self) -> None:
        self._channel.close()

    def lookup(self, keys: Sequence[bytes], deadline: Deadline) -> list[int]:
        """Bytes of each of the leading blocks that the node holds."""
        body = self._call(Op.LOOKUP, b"".join(keys), deadline)
        return frames.unpack_figures(body, len(keys))

    def get(
        self,
        keys: Sequence[bytes],
        budget_bytes: int,
        place: Callable[[list[int]], Sequence[memoryview]],
        deadline: Deadline,
        transfer: Transfer,
        each: Callable[[int], object] = lambda _: None,
    ) -> None:
        """Receive the leading blocks that the node holds, in a budget, straight where they belong.

        `place` is told their lengths and gives a target for each. `each` is told of every block
        of the leading good ones as it is whole. `transfer` says what has come, after an error too.
        """
        body = self._call(Op.GET, frames.pack_get(budget_bytes, keys), deadline)
        transfer.rows = frames.unpack_rows(body, len(keys))
        total = sum(row.length for row in transfer.rows)
        if total > budget_bytes:
            raise PoolProtocolError(f"{total} bytes come where {budget_bytes} were asked for")
        targets = place([row.length for row in transfer.rows])
        for at, (key, row, target) in enumerate(zip(keys, transfer.rows, targets, strict=False)):
            hasher = xxhash.xxh3_64(seed=frames.seed(key))

            def seen(piece: memoryview, add: Callable[[memoryview], None] = hasher.update) -> None:
                add(piece)
                transfer.bytes += len(piece)

            self._channel.receive_into(target, deadline, seen)
            if transfer.good == at and hasher.intdigest() == row.sum:
                transfer.good += 1
                each(at)

    def put(
        self, blocks: Sequence[tuple[bytes, memoryview]], budget_bytes: int, deadline: Deadline
    ) -> tuple[list[int], int]:
        """Offer blocks and send those that are wanted; their positions, and how many are kept."""
        offers = [(key, len(data)) for key, data in blocks]
        body = self._call(Op.PUT, frames.pack_put(budget_bytes, offers), deadline)
        positions = unpack_positions(body, len(blocks))
        if not positions:
            return [], 0
        sums = self._send_blocks([blocks[position] for position in positions], deadline)
        kept = unpack_count(self._call(Op.SUMS, frames.pack_figures(sums), deadline))
        if kept > len(positions):
            raise PoolProtocolError(f"{kept} blocks kept of {len(positions)} sent")
        return positions, kept

    def ping(self, deadline: Deadline) -> bool:
        """Whether the node stays; False when it is about to leave."""
        return self._call(Op.PING, b"", deadline) == b"\0"

    def stat(self, deadline: Deadline) -> NodeStat:
        try:
            return msgspec.json.decode(self._call(Op.STAT, b"", deadline), type=NodeStat)
        except msgspec.DecodeError as error:
            raise PoolProtocolError(f"the node's counters cannot be read: {error}") from error

    def _send_blocks(
        self, blocks: Sequence[tuple[bytes, memoryview]], deadline: Deadline
    ) -> list[int]:
        """Send bytes a chunk at a time, each summed just before: it is still in the cache then."""
        sums: list[int] = []
        chunk: list[memoryview] = []
        held = 0
        for key, data in blocks:
            hasher = xxhash.xxh3_64(seed=frames.seed(key))
            for start in range(0, len(data), CHUNK_BYTES):
                piece = data[start : start + CHUNK_BYTES]
                hasher.update(piece)
                chunk.append(piece)
                held += len(piece)
                if held >= CHUNK_BYTES:
                    self._channel.send(chunk, deadline)
                    chunk, held = [], 0
            sums.append(hasher.intdigest())
        self._channel.send(chunk, deadline)
        return sums

    def _call(self, op: Op, body: bytes, deadline: Deadline) -> bytes:
        self._request = (self._request + 1) & 0xFFFFFFFF
        self._channel.send([frames.frame(op, self._request, body)], deadline)
        return self._answer(op, deadline)

    def _answer(self, op: Op, deadline: Deadline) -> bytes:
        header = frames.read_header(self._channel.receive(frames.HEADER_BYTES, deadline))
        rest = self._channel.receive(frames.rest_bytes(header.length), deadline)
        return frames.check_answer(header, op, self._request, rest)


def connect(endpoint: Endpoint, tls: ssl.SSLContext | None, deadline: Deadline) -> Channel:
    """A connected channel. Raises OSError."""
    unix = endpoint.path is not None
    sock = socket.socket(socket.AF_UNIX) if unix else _tcp(endpoint, deadline)
    try:
        sock.settimeout(deadline.left_s())
        if unix:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNIX_BUFFER_BYTES)
            sock.connect(str(endpoint.path))
        elif endpoint.tls:
            if tls is None:
                raise OSError(f"{endpoint}: no certificates are named (`tls`)")
            sock = tls.wrap_socket(sock, server_hostname=endpoint.host)
    except BaseException:
        sock.close()
        raise
    return Channel(sock)


def _tcp(endpoint: Endpoint, deadline: Deadline) -> socket.socket:
    """The first address of a name that takes us, all within the deadline but for the resolver."""
    failure = OSError(f"{endpoint.host} has no address")
    kind = socket.SOCK_STREAM
    for family, _, _, _, address in socket.getaddrinfo(endpoint.host, endpoint.port, type=kind):
        sock = socket.socket(family, kind)
        try:
            sock.settimeout(deadline.left_s())
            sock.connect(address)
        except OSError as error:
            sock.close()
            failure = error
        else:
            tune(sock)
            return sock
    raise failure


def tune(sock: socket.socket) -> None:
    """Questions leave at once; a peer whose machine has gone is noticed."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
