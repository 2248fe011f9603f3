"""Frames between a gateway and a worker: 4 bytes of length (little-endian), then msgpack.

A worker says `Hello` first. Every answer goes to the connection that asked; a connection that
closes cancels what came over it.
"""

import asyncio
from typing import Generic, Literal, TypeAlias, TypeVar

import msgspec

from starloom.serve.base import Delta, EngineRequest, LoadReport

MAX_FRAME_BYTES = 128 << 20
PART_BYTES = 32 << 20
"""KV blocks go in frames of at most this size, or of one block."""
_HEADER_BYTES = 4


class WireError(Exception):
    """The peer sent something that is no frame of ours. The connection is closed."""


class Hello(msgspec.Struct, tag="hello", frozen=True):
    """The worker's first frame."""

    name: str
    model: str
    fingerprint: str
    kv_blocks: int
    pid: int
    handover: str = ""
    """Where it offers KV of prompts that it computed; empty where it offers none."""


class Submit(msgspec.Struct, tag="submit", frozen=True):
    request: EngineRequest


class Cancel(msgspec.Struct, tag="cancel", frozen=True):
    id: str


class Refused(msgspec.Struct, tag="refused", frozen=True):
    """The worker cannot take a request now; nothing was computed, another worker may."""

    id: str
    message: str


class Deltas(msgspec.Struct, tag="deltas", frozen=True):
    deltas: list[Delta]


class Report(msgspec.Struct, tag="report", frozen=True):
    load: LoadReport


class Export(msgspec.Struct, tag="export", frozen=True):
    ref: int
    keys: list[bytes]


class Exported(msgspec.Struct, tag="exported", frozen=True):
    """Key and contents of the first blocks that are held, as many as fit. Ask on for the rest."""

    ref: int
    blocks: list[tuple[bytes, bytes]]


class Import(msgspec.Struct, tag="import", frozen=True):
    ref: int
    blocks: list[tuple[bytes, bytes]]


class Imported(msgspec.Struct, tag="imported", frozen=True):
    ref: int
    count: int


class Forgo(msgspec.Struct, tag="forgo", frozen=True):
    """The transfer of this name will not come: compute what waits for it."""

    name: str


class TakeRole(msgspec.Struct, tag="take_role", frozen=True):
    """Which half of requests it will be sent from now on. It says so in its reports."""

    role: Literal["both", "prefill", "decode"]


class Drain(msgspec.Struct, tag="drain", frozen=True):
    """Take nothing new, finish what is there, then end."""


ToWorker: TypeAlias = Submit | Cancel | Export | Import | Forgo | TakeRole | Drain
FromWorker: TypeAlias = Hello | Refused | Deltas | Report | Exported | Imported

_F = TypeVar("_F")
_encoder = msgspec.msgpack.Encoder()


def encode(frame: ToWorker | FromWorker) -> bytes:
    """A frame with its length before it. Raises `WireError` when it is over the limit."""
    buffer = bytearray(_HEADER_BYTES)
    _encoder.encode_into(frame, buffer, _HEADER_BYTES)
    size = len(buffer) - _HEADER_BYTES
    if size > MAX_FRAME_BYTES:
        raise WireError(f"a frame of {size} bytes is over the limit of {MAX_FRAME_BYTES}")
    buffer[:_HEADER_BYTES] = size.to_bytes(_HEADER_BYTES, "little")
    return bytes(buffer)


class FrameReader(Generic[_F]):
    """Frames of one direction out of a stream."""

    def __init__(
        self, reader: asyncio.StreamReader, decoder: "msgspec.msgpack.Decoder[_F]"
    ) -> None:
        self._reader = reader
        self._decoder = decoder

    async def read(self) -> _F:
        """The next frame. Raises `EOFError` at the end, `WireError` for what is no frame."""
        header = await self._reader.readexactly(_HEADER_BYTES)
        size = int.from_bytes(header, "little")
        if size > MAX_FRAME_BYTES:
            raise WireError(f"a frame of {size} bytes is over the limit of {MAX_FRAME_BYTES}")
        data = await self._reader.readexactly(size)
        try:
            return self._decoder.decode(data)
        except msgspec.MsgspecError as error:
            raise WireError(f"a frame cannot be read: {error}") from error


def worker_frames(reader: asyncio.StreamReader) -> FrameReader[ToWorker]:
    """What a worker reads."""
    return FrameReader(reader, msgspec.msgpack.Decoder(ToWorker))


def gateway_frames(reader: asyncio.StreamReader) -> FrameReader[FromWorker]:
    """What a gateway reads."""
    return FrameReader(reader, msgspec.msgpack.Decoder(FromWorker))


def parts(blocks: list[tuple[bytes, bytes]]) -> list[list[tuple[bytes, bytes]]]:
    """Blocks in groups that fit frames, in order; at least one group."""
    groups: list[list[tuple[bytes, bytes]]] = [[]]
    size = 0
    for key, data in blocks:
        if groups[-1] and size + len(data) > PART_BYTES:
            groups.append([])
            size = 0
        groups[-1].append((key, data))
        size += len(data)
    return groups
