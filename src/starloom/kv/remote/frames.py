"""The wire format between pools and nodes, version 1, over TCP, TLS or a Unix stream socket. Pure.

A frame is a header (body length u32, op u8, request id u32, sum u32), a body, and zeros up to a
multiple of 64 bytes, so that what follows it lies in the kernel's pages as it does in ours (a copy
that is out of step takes a fifth longer). Integers are big-endian. `sum` is the low half of XXH3-64
over the header's other bytes and the body. A node answers requests in their order, each with its op
with the top bit set and its id, so that a client may send the next request before the answer to the
last.

    HELLO   magic 4s, lowest version u8, highest u8, nonce 32s, tenant (UTF-8)
                                          -> version u8, nonce 32s, node's name (UTF-8)
    PROOF   proof 32s                     -> signature 32s, n u16, n x (slot bytes u64, slots u32)
    LOOKUP  n x key 32s                   -> m x length u64: the m leading blocks that are held
    GET     budget u64, n x key 32s       -> m x (length u64, sum u64)
                                             then the m leading blocks' bytes, bare
    PUT     budget u64, n x (key 32s, length u64)
                                          -> m x position u32: which blocks are wanted
            and only if any is: the wanted blocks' bytes, bare, then
    SUMS    m x sum u64                   -> n u32: how many were kept
    PING                                  -> state u8 (0: well, 1: leaving)
    STAT                                  -> NodeStat as JSON

ERROR (text) answers what a node cannot do; then it closes the connection. A block's sum is XXH3-64
over its bytes, seeded by its key's first eight: made by the one who puts a block and checked by the
one who gets it, so that neither the wire nor the memory of a node nor a mix-up of two blocks can
change a byte unseen. Sums find accidents, not forgeries: those are what TLS is for.
"""

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import xxhash

from starloom.kv.errors import PoolProtocolError
from starloom.kv.keys import KEY_BYTES

VERSION = 1
MAX_KEYS = 8192
"""Blocks that one request names; longer lists go in several."""
MAGIC = b"SLKR"
NONCE_BYTES = PROOF_BYTES = 32
MAX_NAME_BYTES = 64
ANSWER = 0x80
_HEADER = struct.Struct("!IBII")
_PLAIN = struct.Struct("!IBI")
_HELLO = struct.Struct(f"!4sBB{NONCE_BYTES}s")
_CHALLENGE = struct.Struct(f"!B{NONCE_BYTES}s")
_U64 = struct.Struct("!Q")
_ROW = struct.Struct("!QQ")
_KEY = struct.Struct(f"!{KEY_BYTES}s")
_OFFER = struct.Struct(f"!{KEY_BYTES}sQ")
HEADER_BYTES = _HEADER.size
_ALIGN_BYTES = 64
MAX_BODY_BYTES = _U64.size + MAX_KEYS * _OFFER.size
MAX_FIRST_BODY_BYTES = 256
"""Before a peer has proved who it is."""


class Op(IntEnum):
    HELLO = 1
    PROOF = 2
    LOOKUP = 3
    GET = 4
    PUT = 5
    SUMS = 6
    PING = 7
    STAT = 8
    ERROR = 127


class Header(NamedTuple):
    length: int
    op: int
    request: int
    sum: int


class Hello(NamedTuple):
    lowest: int
    highest: int
    nonce: bytes
    tenant: str


class Challenge(NamedTuple):
    version: int
    nonce: bytes
    node: str


class Row(NamedTuple):
    """A block that follows: its bytes and their sum."""

    length: int
    sum: int


def frame(op: int, request: int, body: bytes = b"") -> bytes:
    head = _PLAIN.pack(len(body), op, request)
    padding = bytes(rest_bytes(len(body)) - len(body))
    return _HEADER.pack(len(body), op, request, _sum(head, body)) + body + padding


def rest_bytes(length: int) -> int:
    """What follows a frame's header: the body and its padding."""
    return length + -(HEADER_BYTES + length) % _ALIGN_BYTES


def read_header(data: bytes, most: int = MAX_BODY_BYTES) -> Header:
    """Raises `PoolProtocolError` for a body of more than `most` bytes."""
    header = Header._make(_HEADER.unpack(data))
    if header.length > most:
        raise PoolProtocolError(f"a frame of {header.length} bytes is over {most}")
    return header


def check_frame(header: Header, rest: bytes) -> bytes:
    """The body; raises `PoolProtocolError` where its sum says that bytes have changed."""
    body = rest[: header.length]
    if header.sum != _sum(_PLAIN.pack(*header[:3]), body):
        raise PoolProtocolError("a frame's sum does not agree with its bytes")
    return body


def check_answer(header: Header, op: Op, request: int, rest: bytes) -> bytes:
    """The body, if it answers that request; raises `PoolProtocolError` otherwise."""
    body = check_frame(header, rest)
    if header.op == Op.ERROR | ANSWER:
        raise PoolProtocolError(f"the node refused: {body.decode(errors='replace')}")
    if (header.op, header.request) != (op | ANSWER, request):
        raise PoolProtocolError(f"op {header.op} does not answer {op.name} {request}")
    return body


def seed(key: bytes) -> int:
    """What a block's sum begins with: it binds the bytes to their key."""
    start: int = _U64.unpack_from(key)[0]
    return start


def block_sum(key: bytes, data: memoryview) -> int:
    return xxhash.xxh3_64_intdigest(data, seed(key))


def pack_hello(nonce: bytes, tenant: str) -> bytes:
    return _HELLO.pack(MAGIC, VERSION, VERSION, nonce) + tenant.encode()


def unpack_hello(body: bytes) -> Hello:
    magic, lowest, highest, nonce = _head(_HELLO, body)
    if magic != MAGIC:
        raise PoolProtocolError("the peer does not speak starloom's node protocol")
    return Hello(lowest, highest, nonce, _name(body[_HELLO.size :]))


def agreed_version(hello: Hello) -> int:
    """The highest version that both sides speak; raises `PoolProtocolError` when there is none."""
    if not hello.lowest <= VERSION <= hello.highest:
        raise PoolProtocolError(
            f"the peer speaks versions {hello.lowest} to {hello.highest}, this node {VERSION}"
        )
    return VERSION


def pack_challenge(version: int, nonce: bytes, node: str) -> bytes:
    return _CHALLENGE.pack(version, nonce) + node.encode()


def unpack_challenge(body: bytes) -> Challenge:
    version, nonce = _head(_CHALLENGE, body)
    if version != VERSION:
        raise PoolProtocolError(f"the node speaks version {version}, this pool {VERSION}")
    return Challenge(version, nonce, _name(body[_CHALLENGE.size :]))


def pack_figures(figures: Sequence[int]) -> bytes:
    """Lengths, or sums."""
    return struct.pack(f"!{len(figures)}Q", *figures)


def unpack_figures(body: bytes, most: int) -> list[int]:
    return [figure for (figure,) in _rows(_U64, body, most)]


def pack_get(budget_bytes: int, keys: Sequence[bytes]) -> bytes:
    return _U64.pack(budget_bytes) + b"".join(keys)


def unpack_get(body: bytes) -> tuple[int, list[bytes]]:
    (budget,) = _head(_U64, body)
    rest = body[_U64.size :]
    return budget, [key for (key,) in _rows(_KEY, rest, MAX_KEYS)]


def unpack_keys(body: bytes) -> list[bytes]:
    return [key for (key,) in _rows(_KEY, body, MAX_KEYS)]


def pack_rows(rows: Sequence[Row]) -> bytes:
    return b"".join([_ROW.pack(*row) for row in rows])


def unpack_rows(body: bytes, most: int) -> list[Row]:
    return [Row._make(row) for row in _rows(_ROW, body, most)]


def pack_put(budget_bytes: int, offers: Sequence[tuple[bytes, int]]) -> bytes:
    return _U64.pack(budget_bytes) + b"".join([_OFFER.pack(*offer) for offer in offers])


def unpack_put(body: bytes) -> tuple[int, list[tuple[bytes, int]]]:
    """The budget, then key and length of each block that is offered."""
    (budget,) = _head(_U64, body)
    return budget, _rows(_OFFER, body[_U64.size :], MAX_KEYS)


def _sum(head: bytes, body: bytes) -> int:
    hasher = xxhash.xxh3_64(head)
    hasher.update(body)
    return hasher.intdigest() & 0xFFFFFFFF


def _head(form: struct.Struct, body: bytes) -> tuple[Any, ...]:
    if len(body) < form.size:
        raise PoolProtocolError(f"{len(body)} bytes where {form.size} are due at least")
    return form.unpack_from(body)


def _rows(form: struct.Struct, body: bytes, most: int) -> list[tuple[Any, ...]]:
    count, rest = divmod(len(body), form.size)
    if rest or count > most:
        raise PoolProtocolError(f"{len(body)} bytes are no list of up to {most} rows")
    return list(form.iter_unpack(body))


def _name(data: bytes) -> str:
    try:
        name = data.decode()
    except UnicodeDecodeError as error:
        raise PoolProtocolError("a name is not UTF-8") from error
    if len(data) > MAX_NAME_BYTES:
        raise PoolProtocolError(f"a name of {len(data)} bytes is over {MAX_NAME_BYTES}")
    return name
