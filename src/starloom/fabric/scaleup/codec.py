"""Frames to bytes and back, as `base.py` lays them out; what is no whole frame is `BadFrame`."""

import struct
import zlib

from starloom.fabric.scaleup.base import (
    MAX_FRAME_BODY,
    MAX_PAYLOAD,
    WIRE_EXTRA_BYTES,
    Frame,
    Op,
    Transaction,
)
from starloom.fabric.scaleup.errors import BadFrame, BadTransaction

VERSION = 1
ETHERTYPE = 0x88B5
HEAD = struct.Struct(">BBHHBBHHH")
ENTRY = struct.Struct(">BBHHHI")
"""Operation, argument, length, tag, and the offset as 16 + 32 bits."""
CHECK = struct.Struct("<I")
LEAST = 60
_OPS = {int(op): op for op in Op}


def encode(frame: Frame) -> bytes:
    """The octets of a frame, preamble and gap not included.

    Raises `BadTransaction` for more than a frame holds.
    """
    entries = []
    for one in frame.transactions:
        high, low = one.offset >> 32, one.offset & 0xFFFFFFFF
        entries.append(ENTRY.pack(one.op, one.argument, len(one.payload), one.tag, high, low))
        entries.append(one.payload)
    body = b"".join(entries)
    if len(body) > MAX_FRAME_BODY:
        raise BadTransaction(f"{len(body)} bytes in one frame: at most {MAX_FRAME_BODY}, send more")
    head = HEAD.pack(
        0x03 if frame.to_group else 0x02,
        VERSION << 5 | frame.channel << 2,
        frame.destination,
        len(body),
        0x02,
        len(frame.transactions),
        frame.source,
        0,
        ETHERTYPE,
    )
    whole = (head + body).ljust(LEAST, b"\0")
    return whole + CHECK.pack(zlib.crc32(whole))


def decode(octets: bytes) -> Frame:
    """The frame in these octets. Raises `BadFrame` for what `encode` would not have made."""
    if len(octets) < LEAST + CHECK.size:
        raise BadFrame(f"{len(octets)} octets: the least frame has {LEAST + CHECK.size}")
    whole, check = octets[: -CHECK.size], octets[-CHECK.size :]
    if CHECK.unpack(check)[0] != zlib.crc32(whole):
        raise BadFrame("the check sequence does not match: corrupt or cut short")
    first, second, destination, length, local, count, source, reserved, kind = HEAD.unpack_from(
        whole
    )
    if kind != ETHERTYPE or first not in (0x02, 0x03) or local != 0x02:
        raise BadFrame(f"EtherType {kind:#06x}, first octet {first:#04x}: not a frame of this link")
    if second >> 5 != VERSION:
        raise BadFrame(f"version {second >> 5}: this end speaks {VERSION}")
    if second & 0b11 or reserved:
        raise BadFrame("reserved bits are set: a later version?")
    end = HEAD.size + length
    if max(end, LEAST) != len(whole) or any(whole[end:]):
        raise BadFrame(f"length {length} does not fit {len(whole)} octets")
    transactions, at = [], HEAD.size
    for number in range(count):
        transaction, at = _entry(whole, at, end, number)
        transactions.append(transaction)
    if at != end or not transactions:
        raise BadFrame(f"{count} transactions end at octet {at}, the frame says {end}")
    channel = second >> 2 & 0b111
    return Frame(source, destination, channel, tuple(transactions), first == 0x03)


def _entry(whole: bytes, at: int, end: int, number: int) -> tuple[Transaction, int]:
    if at + ENTRY.size > end:
        raise BadFrame(f"transaction {number} begins at octet {at} and is cut short at {end}")
    op, argument, length, tag, high, low = ENTRY.unpack_from(whole, at)
    at += ENTRY.size
    if op not in _OPS:
        raise BadFrame(f"transaction {number}: operation {op} is unknown")
    if length > MAX_PAYLOAD or at + length > end:
        raise BadFrame(f"transaction {number}: {length} bytes of payload do not fit")
    payload = whole[at : at + length]
    return Transaction(_OPS[op], high << 32 | low, tag, payload, argument), at + length


def wire_bytes(payloads: list[int]) -> int:
    """What a frame with such payloads takes on the wire, preamble and gap included."""
    body = HEAD.size + sum(ENTRY.size + payload for payload in payloads)
    return max(body, LEAST) + CHECK.size + WIRE_EXTRA_BYTES


def efficiency(payload_bytes: int, packed: int = 1) -> float:
    """Payload over wire: P / (P + H + 20), with `packed` transactions in a frame."""
    return packed * payload_bytes / wire_bytes([payload_bytes] * packed)
