"""What encrypting the link costs: octets, time and keys. The cipher itself is not modelled.

As MACsec does it (IEEE 802.1AE-2018, AES-GCM): a tag of 8 octets before the payload and 16 octets
of integrity check after it. A packet number must never repeat under one key, so that a key lasts
2^32 frames, or 2^64 with extended numbering.
"""

from dataclasses import dataclass

from starloom.fabric.scaleup import codec
from starloom.fabric.scaleup.base import WIRE_EXTRA_BYTES
from starloom.fabric.scaleup.errors import BadTransaction


@dataclass(frozen=True, slots=True)
class Encryption:
    """One link's encryption."""

    tag_bytes: int = 8
    check_bytes: int = 16
    pass_ns: float = 15.0
    """Each end adds so much to a frame; assumed of a pipelined engine."""
    number_bits: int = 64

    @property
    def frame_bytes(self) -> int:
        return self.tag_bytes + self.check_bytes

    def efficiency(self, payload_bytes: int, packed: int = 1) -> float:
        """Payload over wire with encryption; `codec.efficiency` is without."""
        wire = codec.wire_bytes([payload_bytes] * packed) + self.frame_bytes
        return packed * payload_bytes / wire

    def cost(self, payload_bytes: int, packed: int = 1) -> float:
        """Share of the rate that it takes."""
        plain = codec.efficiency(payload_bytes, packed)
        return 1 - self.efficiency(payload_bytes, packed) / plain

    def added_ns(self, hops: int = 2) -> float:
        """One way: each link is encrypted for itself, at both of its ends."""
        return 2 * hops * self.pass_ns

    def key_lasts_s(self, gbps: float, frame_bytes: int = 64) -> float:
        """Until numbers run out at line rate with frames of so many octets, gap included.

        Raises `BadTransaction` for a rate or a frame of nothing.
        """
        if not gbps > 0 or frame_bytes < 1:
            raise BadTransaction(f"{gbps:g} Gb/s of {frame_bytes} octets: give more than 0")
        per_s = gbps * 1e9 / 8 / (frame_bytes + self.frame_bytes + WIRE_EXTRA_BYTES)
        return 2.0**self.number_bits / per_s
