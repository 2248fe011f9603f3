"""The server's side of the protocol, played without a socket: any bytes, cut anywhere."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from starloom.kv import protocol
from starloom.kv.arena import Arena
from starloom.kv.errors import PoolProtocolError
from starloom.kv.layout import Block, Layout, SlotClass
from starloom.kv.protocol import Op
from starloom.kv.session import Session
from starloom.kv.store import Store

HELLO = protocol.frame(Op.HELLO, 1, protocol.pack_hello())


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def put_frame(sizes, max_bytes=1 << 20, request=2) -> bytes:
    wants = [(key(number), size) for number, size in enumerate(sizes)]
    return protocol.frame(Op.PUT, request, protocol.pack_wants(wants, max_bytes))


class Peer:
    """Feeds a session chunk by chunk and keeps what it answers."""

    def __init__(self) -> None:
        layout = Layout([SlotClass(16, 4)])
        self.store = Store(layout)
        self.arena = Arena(layout, share=False)
        self.session = Session(self.store, self.arena)
        self.answers = b""

    def feed(self, data: bytes, chunk: int = 1 << 30) -> "Peer":
        while data:
            target = self.session.buffer()
            count = min(len(target), len(data), chunk)
            assert count > 0
            target[:count] = data[:count]
            data = data[count:]
            self.answers += self.session.received(count)
        return self

    def bodies(self) -> list[tuple[int, bytes]]:
        found, rest = [], self.answers
        while rest:
            header = protocol.read_header(rest[: protocol.HEADER_BYTES])
            end = protocol.HEADER_BYTES + header.length
            found.append((header.op, rest[protocol.HEADER_BYTES : end]))
            rest = rest[end:]
        return found


CONVERSATION = b"".join(
    [
        HELLO,
        put_frame([5, 0, 16, 1]),
        b"aaaaa" + b"c" * 16 + b"d",
        protocol.frame(Op.LOOKUP, 3, protocol.pack_keys([key(0), key(1), key(9)])),
        protocol.frame(Op.GET, 4, protocol.pack_keys([key(number) for number in range(4)])),
        protocol.frame(Op.RELEASE, 0, protocol.pack_leases([1])),
        protocol.frame(Op.STAT, 5, b""),
    ]
)


@given(st.integers(1, 60))
def test_answers_do_not_depend_on_where_the_stream_is_cut(chunk):
    """A conversation received in pieces of any size gives the same answers and the same blocks."""
    peer = Peer().feed(CONVERSATION, chunk)
    bodies = peer.bodies()
    assert [op & 0x7F for op, _ in bodies] == [1, 5, 6, 2, 3, 7]
    assert protocol.unpack_positions(bodies[1][1], 4) == [0, 1, 2, 3]
    assert protocol.unpack_count(bodies[2][1]) == 4
    assert protocol.unpack_count(bodies[3][1]) == 2
    lease, blocks = protocol.unpack_lease(bodies[4][1])
    assert lease == 1
    assert [bytes(peer.arena.view(block)) for block in blocks] == [b"aaaaa", b"", b"c" * 16, b"d"]
    assert protocol.unpack_stat(bodies[5][1]).pinned_blocks == 0
    assert peer.session.awaited_bytes == 0


@given(st.integers(0, len(CONVERSATION) - 1))
def test_a_peer_that_ends_anywhere_leaves_nothing_behind(end):
    """Cut at any byte: pins and unpublished slots come back, whole blocks stay."""
    peer = Peer().feed(CONVERSATION[:end])
    peer.session.close()
    peer.session.close()
    stat = peer.store.stat()
    assert (stat.connections, stat.pinned_blocks) == (0, 0)
    assert stat.blocks + sum(map(len, peer.store._free)) == stat.slots


def test_a_session_knows_what_its_peer_owes():
    """Awaited are the rest of a frame, or of the payload as a whole; nothing between requests."""
    peer = Peer()
    assert peer.session.awaited_bytes == protocol.HEADER_BYTES
    peer.feed(HELLO)
    assert peer.session.awaited_bytes == 0
    peer.feed(put_frame([5, 16])[:20])
    assert peer.session.awaited_bytes == len(put_frame([5, 16])) - 20
    peer.feed(put_frame([5, 16])[20:])
    assert peer.session.awaited_bytes == 21
    peer.feed(b"x" * 7)
    assert peer.session.awaited_bytes == 14
    peer.feed(b"x" * 14)
    assert peer.session.awaited_bytes == 0


FRAMES = st.builds(
    protocol.frame,
    st.sampled_from(list(Op)),
    st.integers(0, 9),
    st.one_of(
        st.binary(max_size=120),
        st.lists(st.integers(0, 5).map(key), max_size=5).map(protocol.pack_keys),
        st.lists(st.integers(0, 5), max_size=5).map(protocol.pack_leases),
        st.tuples(
            st.lists(st.tuples(st.integers(0, 5).map(key), st.integers(0, 20)), max_size=5),
            st.integers(0, 50),
        ).map(lambda it: protocol.pack_wants(*it)),
    ),
)


@given(st.lists(st.one_of(FRAMES, st.binary(max_size=50)), max_size=12), st.booleans())
def test_any_bytes_are_answered_or_end_the_session(frames, hello):
    """Whatever a peer sends, the only error is `PoolProtocolError`, and the store stays whole."""
    peer = Peer()
    with suppress(PoolProtocolError):
        peer.feed((HELLO if hello else b"") + b"".join(frames))
        peer.bodies()
    assert peer.session.awaited_bytes >= 0
    peer.session.close()
    stat = peer.store.stat()
    assert stat.pinned_blocks == 0
    assert stat.blocks + sum(map(len, peer.store._free)) == stat.slots


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (protocol.frame(Op.STAT, 1, b""), "first frame must be HELLO"),
        (protocol.frame(Op.HELLO, 1, b"HTTP\x01"), "does not speak"),
        (protocol.frame(Op.HELLO, 1, b"SLKV\x02"), "version 2"),
        (HELLO + HELLO, "second HELLO"),
        (HELLO + b"\xff\xff\xff\xff\x02\0\0\0\1", "is over"),
        (HELLO + b"\0\0\0\0\x63\0\0\0\1", "no op 99"),
        (HELLO + protocol.frame(Op.GET, 1, b"short"), "no list of up to"),
        (HELLO + protocol.frame(Op.PUT, 1, b"short"), "cut off"),
        (HELLO + put_frame([17]), "does not fit"),
        (HELLO + protocol.frame(Op.RELEASE, 1, protocol.pack_leases([3])), "lease 3 is not open"),
    ],
)
def test_a_wrong_frame_is_named(data, why):
    """The error that the peer is told says what was wrong."""
    with pytest.raises(PoolProtocolError, match=why):
        Peer().feed(data)


def test_a_frame_over_the_limit_is_refused_before_memory_is_taken():
    """The bound is that of the largest PUT; a list of too many keys is refused by count."""
    body = protocol.pack_keys([key(1)]) * (protocol.MAX_KEYS + 1)
    assert len(body) < protocol.MAX_BODY_BYTES
    with pytest.raises(PoolProtocolError, match="no list of up to"):
        Peer().feed(HELLO + protocol.frame(Op.LOOKUP, 1, body))


@given(st.lists(st.builds(Block, st.integers(0, 9), st.integers(0, 99), st.integers(0, 99))))
def test_bodies_come_back_as_they_were_packed(blocks):
    """Packing and unpacking are each other's inverse."""
    assert protocol.unpack_lease(protocol.pack_lease(7, blocks)) == (7, blocks)
    layout = Layout([SlotClass(16, 4), SlotClass(8, 1)])
    assert protocol.unpack_classes(protocol.pack_classes(layout)).classes == layout.classes


@pytest.mark.parametrize(
    "unpack",
    [
        protocol.unpack_classes,
        protocol.unpack_count,
        protocol.unpack_lease,
        protocol.unpack_stat,
        lambda body: protocol.unpack_positions(body, 3),
    ],
)
@given(data=st.binary(max_size=60))
def test_a_client_takes_no_broken_answer(unpack, data):
    """Any bytes in an answer are read or are a `PoolProtocolError`, never another error."""
    with suppress(PoolProtocolError):
        unpack(data)
