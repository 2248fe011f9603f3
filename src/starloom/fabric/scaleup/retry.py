"""Link-layer retry: what a link corrupts or loses is sent again before anyone above sees a gap.

Both sides are pure: a method takes what came and returns what to send. Sequence numbers have 16
bits and stand in the preamble, together with the last one received in order. Go-back-N: the
receiver takes frames in order only, and asks once for the rest when one is missing; the sender
keeps all that is not acknowledged, `window` at most, and starts again from there. Delivery is in
order, exactly once.

    preamble: 0xFB, kind (1 data, 2 acknowledge, 3 again), sequence (2), acknowledged (2), CRC-16
    (2)
"""

import binascii
import struct
from collections import deque
from dataclasses import dataclass
from enum import IntEnum

from starloom.fabric.scaleup.errors import BadFrame

MODULUS = 1 << 16
PREAMBLE = struct.Struct(">BBHHH")
START = 0xFB


class Kind(IntEnum):
    DATA = 1
    ACK = 2
    AGAIN = 3
    """Send again from the one after `acknowledged`."""


@dataclass(frozen=True, slots=True)
class Preamble:
    kind: Kind
    sequence: int
    acknowledged: int

    def encode(self) -> bytes:
        """8 octets."""
        first = struct.pack(">BBHH", START, self.kind, self.sequence, self.acknowledged)
        return first + struct.pack(">H", binascii.crc_hqx(first, 0xFFFF))

    @classmethod
    def decode(cls, octets: bytes) -> "Preamble":
        """Raises `BadFrame` for anything else."""
        if len(octets) != PREAMBLE.size:
            raise BadFrame(f"a preamble of {len(octets)} octets: 8 are one")
        start, kind, sequence, acknowledged, check = PREAMBLE.unpack(octets)
        if start != START or check != binascii.crc_hqx(octets[:6], 0xFFFF):
            raise BadFrame("the preamble is corrupt")
        if kind not in (Kind.DATA, Kind.ACK, Kind.AGAIN):
            raise BadFrame(f"preamble kind {kind} is unknown")
        return cls(Kind(kind), sequence, acknowledged)


def window_for(gbps: float, round_trip_ns: float, frame_bytes: int) -> int:
    """Frames to keep so that a link never waits for acknowledgements: rate x round trip."""
    return max(1, -(-round(gbps * round_trip_ns / 8) // frame_bytes))


class RetrySender:
    """Keeps frames until they are acknowledged."""

    def __init__(self, window: int) -> None:
        self._window = min(window, MODULUS // 2 - 1)
        self._first = 0
        self._kept: deque[bytes] = deque()
        self.sent_again = 0

    @property
    def has_room(self) -> bool:
        return len(self._kept) < self._window

    @property
    def kept(self) -> int:
        return len(self._kept)

    def send(self, frame: bytes) -> int:
        """Keep a frame and return its sequence number. Call only while `has_room`."""
        sequence = (self._first + len(self._kept)) % MODULUS
        self._kept.append(frame)
        return sequence

    def received(self, preamble: Preamble) -> list[tuple[int, bytes]]:
        """What an acknowledgement, or a call for more, makes us send again."""
        done = (preamble.acknowledged + 1 - self._first) % MODULUS
        if done <= len(self._kept):  # else it is an old one
            for _ in range(done):
                self._kept.popleft()
            self._first = (self._first + done) % MODULUS
            if preamble.kind is Kind.AGAIN:
                return self.again()
        return []

    def unconfirmed(self, acknowledged: int) -> list[bytes]:
        """Kept frames that came after the receiver's last one in order."""
        done = (acknowledged + 1 - self._first) % MODULUS
        return list(self._kept)[done:]

    def again(self) -> list[tuple[int, bytes]]:
        """All that is not acknowledged, in order; also after a time without a word."""
        self.sent_again += len(self._kept)
        return [((self._first + at) % MODULUS, frame) for at, frame in enumerate(self._kept)]


class RetryReceiver:
    """Takes frames in order, once."""

    def __init__(self) -> None:
        self._next = 0
        self._asked = False

    @property
    def acknowledged(self) -> int:
        """The last in order; 65,535 before the first."""
        return (self._next - 1) % MODULUS

    def received(self, sequence: int, intact: bool) -> tuple[bool, Preamble]:
        """Whether to deliver this frame, and what to answer.

        A frame ahead of its turn, or a corrupt one, is dropped and the rest asked for, once until a
        frame comes in order; one that came before is acknowledged again.
        """
        ahead = (sequence - self._next) % MODULUS
        if intact and ahead == 0:
            self._next = (self._next + 1) % MODULUS
            self._asked = False
            return True, Preamble(Kind.ACK, 0, self.acknowledged)
        if intact and ahead >= MODULUS // 2:
            return False, Preamble(Kind.ACK, 0, self.acknowledged)
        kind = Kind.ACK if self._asked else Kind.AGAIN
        self._asked = True
        return False, Preamble(kind, 0, self.acknowledged)
