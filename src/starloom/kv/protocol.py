"""The pool's wire format, version 1, on a Unix stream socket. Integers are big-endian.

A frame is a header (body length u32, op u8, request id u32) and a body. A request's answer carries
its op with the top bit set, and its id. The client opens with HELLO; the answer carries the arena's
descriptor (SCM_RIGHTS).

    HELLO    magic 4s, version u8              -> n u16, n x (slot bytes u64, slots u32)
    LOOKUP   n x key 32s                       -> found u32
    GET      n x key 32s                       -> lease u64, n x (slot u32, length u64,
                                                                  generation u64)
    RELEASE  n x lease u64                     (no answer)
    PUT      budget u64, n x (key 32s, size u64) -> n x position u32: which blocks are wanted
             the wanted blocks' bytes, bare    -> STORED: n u32   (both only if any is wanted)
    STAT                                       -> PoolStat as JSON

ERROR (text) answers what the protocol does not know; the server then closes the connection.
"""

import struct
from collections.abc import Sequence
from enum import IntEnum
from itertools import pairwise
from typing import Any, NamedTuple

import msgspec

from starloom.kv.base import PoolStat
from starloom.kv.errors import PoolProtocolError
from starloom.kv.keys import KEY_BYTES
from starloom.kv.layout import Block, Layout, SlotClass

VERSION = 1
MAX_KEYS = 65536
_MAGIC = b"SLKV"
_ANSWER = 0x80
_HEADER = struct.Struct("!IBI")
_HELLO = struct.Struct("!4sB")
_COUNT = struct.Struct("!H")
_CLASS = struct.Struct("!QI")
_U32 = struct.Struct("!I")
_U64 = struct.Struct("!Q")
_BLOCK = struct.Struct("!IQQ")
_WANT = struct.Struct("!32sQ")
HEADER_BYTES = _HEADER.size
MAX_BODY_BYTES = _U64.size + MAX_KEYS * _WANT.size
"""The largest body of any frame but payload, which goes straight into reserved slots."""


class Op(IntEnum):
    HELLO = 1
    LOOKUP = 2
    GET = 3
    RELEASE = 4
    PUT = 5
    STORED = 6
    STAT = 7
    ERROR = 127


class Header(NamedTuple):
    length: int
    op: int
    request: int


def frame(op: Op, request: int, body: bytes) -> bytes:
    return _HEADER.pack(len(body), op, request) + body


def answer(op: Op, request: int, body: bytes) -> bytes:
    return _HEADER.pack(len(body), op | _ANSWER, request) + body


def read_header(data: bytes | bytearray | memoryview) -> Header:
    """Raises `PoolProtocolError` for a body that no frame has."""
    header = Header._make(_HEADER.unpack(data))
    if header.length > MAX_BODY_BYTES:
        raise PoolProtocolError(f"a frame of {header.length} bytes is over {MAX_BODY_BYTES}")
    return header


def check_answer(header: Header, op: Op, request: int, body: bytes) -> bytes:
    """The body, if it answers that request; raises `PoolProtocolError` otherwise."""
    if header.op == Op.ERROR | _ANSWER:
        raise PoolProtocolError(f"the pool refused: {body.decode(errors='replace')}")
    if (header.op, header.request) != (op | _ANSWER, request):
        raise PoolProtocolError(f"{header} does not answer {op.name} {request}")
    return body


def pack_hello() -> bytes:
    return _HELLO.pack(_MAGIC, VERSION)


def check_hello(body: bytes) -> None:
    """Raises `PoolProtocolError` for a peer that speaks something else."""
    magic, version = _unpack(_HELLO, body)
    if magic != _MAGIC:
        raise PoolProtocolError("the peer does not speak starloom's pool protocol")
    if version != VERSION:
        raise PoolProtocolError(f"the peer speaks version {version}, this pool {VERSION}")


def pack_classes(layout: Layout) -> bytes:
    return _COUNT.pack(len(layout.classes)) + b"".join(_CLASS.pack(*it) for it in layout.classes)


def unpack_classes(body: bytes) -> Layout:
    rows = _rows(_CLASS, body[_COUNT.size :])
    if len(body) < _COUNT.size or len(rows) != _COUNT.unpack_from(body)[0]:
        raise PoolProtocolError("the list of slot classes is cut off")
    try:
        return Layout([SlotClass._make(row) for row in rows])
    except ValueError as error:
        raise PoolProtocolError(str(error)) from error


def pack_keys(keys: Sequence[bytes]) -> bytes:
    check_keys(keys)
    return b"".join(keys)


def unpack_keys(body: bytes) -> list[bytes]:
    if len(body) % KEY_BYTES or len(body) > MAX_KEYS * KEY_BYTES:
        raise PoolProtocolError(f"{len(body)} bytes are no list of up to {MAX_KEYS} keys")
    return [body[start : start + KEY_BYTES] for start in range(0, len(body), KEY_BYTES)]


def pack_count(count: int) -> bytes:
    return _U32.pack(count)


def unpack_count(body: bytes) -> int:
    count: int = _unpack(_U32, body)[0]
    return count


def pack_lease(lease: int, blocks: Sequence[Block]) -> bytes:
    return _U64.pack(lease) + b"".join([_BLOCK.pack(*block) for block in blocks])


def unpack_lease(body: bytes) -> tuple[int, list[Block]]:
    if len(body) < _U64.size:
        raise PoolProtocolError("a lease is cut off")
    rows = _rows(_BLOCK, body[_U64.size :])
    return _U64.unpack_from(body)[0], [Block._make(row) for row in rows]


def pack_leases(leases: Sequence[int]) -> bytes:
    return struct.pack(f"!{len(leases)}Q", *leases)


def unpack_leases(body: bytes) -> list[int]:
    return [lease for (lease,) in _rows(_U64, body)]


def pack_wants(wants: Sequence[tuple[bytes, int]], max_bytes: int) -> bytes:
    check_keys([key for key, _ in wants])
    return _U64.pack(max_bytes) + b"".join([_WANT.pack(*want) for want in wants])


def unpack_wants(body: bytes) -> tuple[list[tuple[bytes, int]], int]:
    if len(body) < _U64.size:
        raise PoolProtocolError("a PUT is cut off")
    rows = _rows(_WANT, body[_U64.size :])
    return rows, _U64.unpack_from(body)[0]


def pack_positions(positions: Sequence[int]) -> bytes:
    return struct.pack(f"!{len(positions)}I", *positions)


def unpack_positions(body: bytes, count: int) -> list[int]:
    """Positions in a list of `count` blocks: ascending, as `PUT` asks for them."""
    positions = [position for (position,) in _rows(_U32, body)]
    if any(one >= other for one, other in pairwise(positions)) or any(
        it >= count for it in positions[-1:]
    ):
        raise PoolProtocolError("the pool wants blocks that were not offered")
    return positions


def pack_stat(stat: PoolStat) -> bytes:
    return msgspec.json.encode(stat)


def unpack_stat(body: bytes) -> PoolStat:
    try:
        return msgspec.json.decode(body, type=PoolStat)
    except msgspec.DecodeError as error:
        raise PoolProtocolError(f"the pool's counters cannot be read: {error}") from error


def check_keys(keys: Sequence[bytes]) -> None:
    """Raises ValueError for keys that do not come from `starloom.kv.keys`."""
    if not set(map(len, keys)) <= {KEY_BYTES}:
        raise ValueError(f"every key must have {KEY_BYTES} bytes")


def _unpack(form: struct.Struct, body: bytes) -> tuple[Any, ...]:
    if len(body) != form.size:
        raise PoolProtocolError(f"{len(body)} bytes where {form.size} are due")
    return form.unpack(body)


def _rows(form: struct.Struct, body: bytes) -> list[tuple[Any, ...]]:
    if len(body) % form.size:
        raise PoolProtocolError(f"{len(body)} bytes are no list of {form.size}-byte rows")
    return list(form.iter_unpack(body))
