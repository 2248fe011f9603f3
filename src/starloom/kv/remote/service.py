"""One connection of a node: who is it, then question by question, in a thread of its own.

A thread waits in the kernel while bytes move, so many connections move them at once. What a
connection can hold is bounded: frames of `MAX_BODY_BYTES`, reserved slots of `PUT_BYTES`, pinned
ones of `GET_BYTES`, each for as long as its peer keeps pace.
"""

import secrets
import time
from collections.abc import Callable
from typing import Protocol

import msgspec
import xxhash

from starloom.kv.channel import Channel, Deadline
from starloom.kv.errors import BlockTooLarge, PoolProtocolError
from starloom.kv.protocol import pack_classes, pack_count, pack_positions
from starloom.kv.remote import frames
from starloom.kv.remote.auth import OPEN_TENANT, Tenants, Verifier
from starloom.kv.remote.base import NodeStat, TenantStat
from starloom.kv.remote.depot import Depot
from starloom.kv.remote.frames import ANSWER, Header, Op

STALL_S = 5.0
IDLE_S = 600.0
MIN_BYTES_PER_S = 16 << 20
"""A peer has `stall_s` for each step, and longer for payload, at this rate."""
GET_BYTES = 256 << 20
PUT_BYTES = 64 << 20


class House(Protocol):
    """What a connection needs of its node."""

    name: str
    depot: Depot
    tenants: Tenants

    @property
    def leaving(self) -> bool: ...
    def counts(self, tenant: str) -> TenantStat: ...
    def stat(self, tenant: str | None) -> NodeStat: ...
    def took(self, op: Op, seconds: float) -> None: ...


class Service:
    """Raises OSError and `PoolProtocolError` when the connection must end."""

    def __init__(
        self,
        house: House,
        channel: Channel,
        *,
        stall_s: float = STALL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._house, self._depot = house, house.depot
        self._channel = channel
        self._stall_s = stall_s
        self._clock = clock
        self.tenant: str | None = None
        self.verifier: Verifier | None = None

    def run(self) -> None:
        """Serve until the peer goes."""
        tenant, verifier = self._admit()
        self.tenant, self.verifier = tenant, verifier
        self._counts = self._house.counts(tenant)
        self._inner = verifier.namespace.inner
        self._owner = self._depot.open()
        try:
            while (head := self._next(IDLE_S)) is not None:
                began = self._clock()
                self._answer(*head)
                self._house.took(Op(head[0].op), self._clock() - began)
        finally:
            self._depot.drop(self._owner)

    def refuse(self, why: str) -> None:
        """Tell the peer why the connection ends."""
        self._send(Op.ERROR, 0, why.encode())

    def _admit(self) -> tuple[str, Verifier]:
        """The tenant that the peer proves to be."""
        hello, first = self._due(Op.HELLO)
        asked = frames.unpack_hello(first)
        version = frames.agreed_version(asked)
        nonce = secrets.token_bytes(frames.NONCE_BYTES)
        challenge = frames.pack_challenge(version, nonce, self._house.name)
        self._send(Op.HELLO, hello.request, challenge)
        header, proof = self._due(Op.PROOF)
        transcript = first + challenge
        tenant = OPEN_TENANT if self._house.tenants.open else asked.tenant
        verifier = None
        if len(proof) == frames.PROOF_BYTES:
            verifier = self._house.tenants.admit(tenant, transcript, proof)
        if verifier is None:
            raise PoolProtocolError("there is no such tenant with such a key")
        welcome = verifier.sign(transcript, proof) + pack_classes(self._depot.layout)
        self._send(Op.PROOF, header.request, welcome)
        return tenant, verifier

    def _due(self, op: Op) -> tuple[Header, bytes]:
        most = frames.MAX_BODY_BYTES if op is Op.SUMS else frames.MAX_FIRST_BODY_BYTES
        found = self._next(self._stall_s, most)
        if found is None or found[0].op != op:
            raise PoolProtocolError(f"{op.name} is due")
        return found

    def _next(
        self, patience_s: float, most: int = frames.MAX_BODY_BYTES
    ) -> tuple[Header, bytes] | None:
        """The next frame; None when the peer has gone, or has nothing to ask."""
        try:
            first = self._channel.receive(1, Deadline(self._clock, patience_s))
        except (ConnectionResetError, TimeoutError):
            return None
        deadline = Deadline(self._clock, self._stall_s)
        first += self._channel.receive(frames.HEADER_BYTES - 1, deadline)
        header = frames.read_header(first, most)
        rest = self._channel.receive(frames.rest_bytes(header.length), deadline)
        return header, frames.check_frame(header, rest)

    def _send(self, op: Op, request: int, body: bytes) -> None:
        deadline = Deadline(self._clock, self._stall_s)
        self._channel.send([frames.frame(op | ANSWER, request, body)], deadline)

    def _answer(self, head: Header, body: bytes) -> None:
        match head.op:
            case Op.LOOKUP:
                keys = [self._inner(key) for key in frames.unpack_keys(body)]
                lengths = frames.pack_figures(self._depot.lengths(keys))
                self._send(Op.LOOKUP, head.request, lengths)
            case Op.GET:
                self._get(head.request, body)
            case Op.PUT:
                self._put(head.request, body)
            case Op.PING:
                self._send(Op.PING, head.request, bytes([self._house.leaving]))
            case Op.STAT:
                stat = msgspec.json.encode(self._house.stat(self.tenant))
                self._send(Op.STAT, head.request, stat)
            case _:
                raise PoolProtocolError(f"there is no op {head.op}")

    def _get(self, request: int, body: bytes) -> None:
        budget, keys = frames.unpack_get(body)
        inner = [self._inner(key) for key in keys]
        most = min(budget, GET_BYTES)
        with self._depot.held(self._owner, inner, keys, most, self._counts) as held:
            head = frames.frame(Op.GET | ANSWER, request, frames.pack_rows(held.rows))
            total = sum(row.length for row in held.rows)
            self._channel.send([head, *held.views], self._payload_deadline(total))

    def _put(self, request: int, body: bytes) -> None:
        budget, offers = frames.unpack_put(body)
        wants = [(self._inner(key), length) for key, length in offers]
        try:
            wanted = self._depot.reserve(self._owner, wants, min(budget, PUT_BYTES))
        except BlockTooLarge as error:  # a client of ours asks our layout first
            raise PoolProtocolError(str(error)) from error
        self._send(Op.PUT, request, pack_positions([each.position for each in wanted]))
        if not wanted:
            self._depot.publish(self._owner, wants, [], 0, self._counts)
            return
        deadline = self._payload_deadline(sum(len(each.target) for each in wanted))
        sums = []
        for each in wanted:
            hasher = xxhash.xxh3_64(seed=frames.seed(offers[each.position][0]))
            self._channel.receive_into(each.target, deadline, hasher.update)
            sums.append(hasher.intdigest())
        header, said = self._due(Op.SUMS)
        due = frames.unpack_figures(said, len(wanted))
        if len(due) != len(wanted):
            raise PoolProtocolError(f"{len(due)} sums for {len(wanted)} blocks")
        both = zip(wanted, sums, due, strict=True)
        good = [(each, sum_) for each, sum_, said_ in both if sum_ == said_]
        bad = len(wanted) - len(good)
        self._depot.publish(self._owner, wants, good, bad, self._counts)
        self._send(Op.SUMS, header.request, pack_count(len(good)))

    def _payload_deadline(self, total: int) -> Deadline:
        return Deadline(self._clock, self._stall_s + total / MIN_BYTES_PER_S)
