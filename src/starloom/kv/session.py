"""One connection of the pool server without its socket: bytes go in, answers come out.

The server asks `buffer()` where the next bytes belong (a header, a body, or straight into a
reserved slot), receives into it, and tells `received(n)`, which returns what to send. Nothing here
touches a socket or a clock, so a test can play any stream of bytes, cut anywhere.
"""

from collections import deque

from starloom.kv import protocol
from starloom.kv.arena import Arena
from starloom.kv.errors import BlockTooLarge, PoolProtocolError
from starloom.kv.protocol import Op
from starloom.kv.store import Store
from starloom.kv.tiers import Fetch, Tiers


class Session:
    """The protocol's server side for one peer. Raises `PoolProtocolError` when it must end."""

    def __init__(self, store: Store, arena: Arena, tiers: Tiers | None = None) -> None:
        self._store = store
        self._arena = arena
        self._tiers = tiers
        self._get: tuple[int, list[bytes]] | None = None
        self.fetch: Fetch | None = None
        """What the answer to a GET waits for; nothing may be received meanwhile."""
        self._owner = store.open()
        self._header = bytearray(protocol.HEADER_BYTES)
        self._head: protocol.Header | None = None
        self._target = memoryview(self._header)
        self._filled = 0
        self._body = bytearray()
        self._payload: deque[tuple[int, memoryview]] = deque()
        self._put_keys: list[bytes] = []
        self._put_request = self._stored = self._owed_bytes = 0
        self.greeted = False
        """Whether the peer has said hello and may get the arena's descriptor."""
        self.phase = 0
        """Grows whenever something that was awaited has come whole."""

    @property
    def awaited_bytes(self) -> int:
        """Bytes that the peer owes now; 0 between two requests."""
        if self._payload:
            return self._owed_bytes
        if self._head is not None or self._filled or not self.greeted:
            return len(self._target) - self._filled
        return 0

    def buffer(self) -> memoryview:
        """Where the next bytes belong. Never empty."""
        return self._target[self._filled :]

    def received(self, count: int) -> bytes:
        """`count` bytes were written to `buffer()`. Returns what to send, often nothing."""
        self._filled += count
        if self._payload:
            self._owed_bytes -= count
        if self._filled < len(self._target):
            return b""
        self.phase += 1
        if self._payload:
            self._publish()
            return self._next_payload()
        if self._head is None:
            self._head = protocol.read_header(self._header)
            if self._head.length:
                self._body = bytearray(self._head.length)
                self._await(memoryview(self._body))
                return b""
        return self._handle(self._head)

    def resume(self) -> bytes:
        """Answer the GET that waits, with what has come from below by now."""
        if self._get is None:
            return b""
        request, keys = self._get
        self._get = self.fetch = None
        lease, blocks = self._store.pin(self._owner, keys)
        return protocol.answer(Op.GET, request, protocol.pack_lease(lease, blocks))

    def close(self) -> None:
        """The peer is gone: pins and unpublished slots come back. May be called twice."""
        self._payload.clear()
        self._store.drop(self._owner)

    def _await(self, target: memoryview) -> None:
        self._target, self._filled = target, 0

    def _handle(self, head: protocol.Header) -> bytes:
        body, self._body, self._head = bytes(self._body), bytearray(), None
        self._await(memoryview(self._header))
        if not self.greeted and head.op != Op.HELLO:
            raise PoolProtocolError("the first frame must be HELLO")
        match head.op:
            case Op.HELLO:
                return self._hello(head.request, body)
            case Op.LOOKUP:
                index = self._tiers or self._store
                found = index.longest_prefix(protocol.unpack_keys(body))
                return protocol.answer(Op.LOOKUP, head.request, protocol.pack_count(found))
            case Op.GET:
                self._get = (head.request, protocol.unpack_keys(body))
                self.fetch = self._tiers.fetch(self._get[1]) if self._tiers else None
                return b"" if self.fetch else self.resume()
            case Op.RELEASE:
                for lease in protocol.unpack_leases(body):
                    self._store.unpin(self._owner, lease)
                return b""
            case Op.PUT:
                return self._put(head.request, body)
            case Op.STAT:
                stat = protocol.pack_stat((self._tiers or self._store).stat())
                return protocol.answer(Op.STAT, head.request, stat)
        raise PoolProtocolError(f"there is no op {head.op}")

    def _hello(self, request: int, body: bytes) -> bytes:
        if self.greeted:
            raise PoolProtocolError("a second HELLO")
        protocol.check_hello(body)
        self.greeted = True
        return protocol.answer(Op.HELLO, request, protocol.pack_classes(self._arena.layout))

    def _put(self, request: int, body: bytes) -> bytes:
        wants, max_bytes = protocol.unpack_wants(body)
        try:
            taken = self._store.reserve(self._owner, wants, max_bytes)
        except BlockTooLarge as error:  # a client of ours asks its layout first
            raise PoolProtocolError(str(error)) from error
        positions = protocol.pack_positions([position for position, _ in taken])
        wanted = protocol.answer(Op.PUT, request, positions)
        if not taken:
            self._store.finish(self._owner)
            return wanted
        self._put_request, self._stored = request, len(taken)
        self._put_keys = [wants[position][0] for position, _ in taken]
        self._owed_bytes = sum(block.length for _, block in taken)
        self._payload.extend((block.slot, self._arena.claim(block)) for _, block in taken)
        return wanted + self._next_payload()

    def _publish(self) -> None:
        slot, _ = self._payload.popleft()
        self._store.publish(self._owner, slot)

    def _next_payload(self) -> bytes:
        """Await the next slot's bytes; when all have come, end the put and say so."""
        while self._payload and not self._payload[0][1]:
            self._publish()  # a block of no bytes is whole already
        if self._payload:
            self._await(self._payload[0][1])
            return b""
        self._await(memoryview(self._header))
        self._store.finish(self._owner)
        if self._tiers is not None:
            self._tiers.stored(self._put_keys)
        count = protocol.pack_count(self._stored)
        return protocol.answer(Op.STORED, self._put_request, count)
