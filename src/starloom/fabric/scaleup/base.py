"""An open, Ethernet-compatible supernode link: transactions, frames, unified addresses.

All memories of a supernode are one address space of 64 bits: the node's number, then the offset in
it.

    63          48 47                                  0
    |    node     |               offset               |

A frame is an Ethernet frame with locally administered addresses, so that analysers and switches of
today see an ordinary one, and carries one or more transactions for the same node:

    octet  size  field
    0      1     0x02 to one node, 0x03 to a group (locally administered; group bit)
    1      1     version (3 bits), virtual channel (3), reserved (2, zero)
    2      2     destination node, or group
    4      2     frame length: all transactions, padding not counted
    6      1     0x02
    7      1     number of transactions
    8      2     source node
    10     2     reserved, zero
    12     2     0x88B5 (IEEE 802 local experimental EtherType 1)
    14     12+P  transactions: 1 operation, 1 argument, 2 length P, 2 tag, 6 offset, P payload
           0-    zeros up to 60 octets, Ethernet's least
           4     frame check sequence, CRC-32 of IEEE 802.3 over all before it

Numbers are big-endian, the check sequence little-endian as on Ethernet. On the wire 8 octets of
preamble (which carry the link's sequence number, see `retry.py`) and 12 of gap come on top: 20.
"""

from dataclasses import dataclass
from enum import IntEnum

from starloom.fabric.scaleup.errors import BadTransaction

NODE_BITS, OFFSET_BITS = 16, 48
MAX_OFFSET = (1 << OFFSET_BITS) - 1
MAX_NODE = (1 << NODE_BITS) - 1
MAX_PAYLOAD = 4096
MAX_FRAME_BODY = 9000
VIRTUAL_CHANNELS = 8
WIRE_EXTRA_BYTES = 20


class Op(IntEnum):
    """What a transaction asks, or answers.

    LOAD (payload: 4 octets, bytes wanted), STORE, ATOMIC (argument: `Atomic`; payload: operand, for
    COMPARE_SWAP expected and new), REDUCE (argument: `Reduction`; payload: one member's share),
    MULTICAST (a store to all of a group), FENCE; answers DATA, DONE, FAULT (argument: `Fault`).
    """

    LOAD = 1
    STORE = 2
    ATOMIC = 3
    REDUCE = 4
    MULTICAST = 5
    FENCE = 6
    DATA = 16
    DONE = 17
    FAULT = 18

    @property
    def is_answer(self) -> bool:
        return self >= Op.DATA


class Atomic(IntEnum):
    """64-bit operations that return what was there before."""

    FETCH_ADD = 0
    SWAP = 1
    COMPARE_SWAP = 2
    FETCH_AND = 3
    FETCH_OR = 4
    FETCH_XOR = 5


class Reduction(IntEnum):
    """What a switch adds, element by element."""

    ADD_F32 = 0
    ADD_I32 = 1
    MAX_F32 = 2


class Fault(IntEnum):
    """Why an access was refused."""

    NO_WINDOW = 1
    """No window of the owner covers the whole of it for this node."""
    NO_RIGHT = 2
    """A window does, and does not allow the operation."""
    NO_NODE = 3
    BAD_LENGTH = 4


class Channel(IntEnum):
    """Virtual channels: answers never wait behind requests, so that no cycle can form."""

    REQUEST = 0
    ANSWER = 1
    BULK = 2
    COLLECTIVE = 3


@dataclass(frozen=True, slots=True)
class Address:
    """A byte of some node's memory."""

    node: int
    offset: int

    def __post_init__(self) -> None:
        if not 0 <= self.node <= MAX_NODE or not 0 <= self.offset <= MAX_OFFSET:
            raise BadTransaction(
                f"address {self.node}:{self.offset:#x}: nodes go to {MAX_NODE},"
                f" offsets to {MAX_OFFSET:#x}"
            )

    @property
    def unified(self) -> int:
        """As one number of 64 bits."""
        return self.node << OFFSET_BITS | self.offset

    @classmethod
    def of(cls, unified: int) -> "Address":
        return cls(unified >> OFFSET_BITS, unified & MAX_OFFSET)


@dataclass(frozen=True, slots=True)
class Transaction:
    """One operation or answer."""

    op: Op
    offset: int
    tag: int
    """Given by the asker, repeated in the answer."""
    payload: bytes = b""
    argument: int = 0

    def __post_init__(self) -> None:
        if len(self.payload) > MAX_PAYLOAD:
            raise BadTransaction(f"a payload of {len(self.payload)} bytes: at most {MAX_PAYLOAD}")
        for name, most in (("offset", MAX_OFFSET), ("tag", 0xFFFF), ("argument", 0xFF)):
            if not 0 <= getattr(self, name) <= most:
                raise BadTransaction(f"{name} {getattr(self, name)}: give 0 to {most}")


@dataclass(frozen=True, slots=True)
class Frame:
    """Transactions from one node to another, or to all of a group."""

    source: int
    destination: int
    channel: int
    transactions: tuple[Transaction, ...]
    to_group: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.source <= MAX_NODE or not 0 <= self.destination <= MAX_NODE:
            raise BadTransaction(f"nodes {self.source}, {self.destination}: give 0 to {MAX_NODE}")
        if not 0 <= self.channel < VIRTUAL_CHANNELS:
            raise BadTransaction(f"channel {self.channel}: give 0 to {VIRTUAL_CHANNELS - 1}")
        if not 1 <= len(self.transactions) <= 255:
            raise BadTransaction(f"{len(self.transactions)} transactions: a frame has 1 to 255")
