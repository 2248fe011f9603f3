"""The registers of a node, by which management reads and steers it. Little-endian words of 64 bits.

offset  name            access  meaning
0x000   identity        ro      0x534C: the link's name, then the version of the frame format
0x008   node            ro      its number
0x010   memory_bytes    ro
0x018   links           ro      one to each card
0x020   windows         ro      granted now
0x028   refused         w1c     accesses refused since it was cleared; write 1 to clear
0x030   open            rw      1: new windows may be granted; 0: every access is refused
0x100 + 0x40 n          link n towards card n:
  +0x00 gbps            ro
  +0x08 frames          ro      sent, repeated ones included
  +0x10 again           ro      sent again
  +0x18 corrupt         ro      found damaged at the other end
  +0x20 free_cells      ro      credits of channel 0
  +0x28 kept            ro      frames not yet acknowledged
"""

from collections.abc import Callable

from starloom.fabric.scaleup.codec import VERSION
from starloom.fabric.scaleup.errors import BadTransaction
from starloom.fabric.scaleup.port import Port
from starloom.fabric.scaleup.supernode import Node

LINKS_AT, LINK_BYTES = 0x100, 0x40
IDENTITY = 0x534C << 16 | VERSION


class Registers:
    """A view of one node; nothing is stored beside what the node itself knows."""

    def __init__(self, node: Node, gbps: float) -> None:
        self._node = node
        self._cleared = 0
        own: dict[int, Callable[[], int]] = {
            0x000: lambda: IDENTITY,
            0x008: lambda: node.number,
            0x010: lambda: len(node.memory),
            0x018: lambda: len(node.links),
            0x020: lambda: node.windows.granted,
            0x028: lambda: node.windows.refused.total() - self._cleared,
            0x030: lambda: int(node.windows.open),
        }
        self._read = own
        for at, port in enumerate(node.links):
            for offset, value in _of_link(port, gbps).items():
                own[LINKS_AT + LINK_BYTES * at + offset] = value

    def read(self, offset: int) -> int:
        """Raises `BadTransaction` where no register is."""
        if offset not in self._read:
            raise BadTransaction(f"no register at {offset:#x}: see the table of offsets")
        return self._read[offset]()

    def write(self, offset: int, value: int) -> None:
        """Raises `BadTransaction` for a register that cannot be written, or a wrong value."""
        if offset == 0x028 and value == 1:
            self._cleared = self._node.windows.refused.total()
        elif offset == 0x030 and value in (0, 1):
            self._node.windows.open = bool(value)
        elif offset in (0x028, 0x030):
            raise BadTransaction(f"{value} into {offset:#x}: it takes 0 or 1 as its access says")
        else:
            self.read(offset)
            raise BadTransaction(f"the register at {offset:#x} is read-only")


def _of_link(port: Port, gbps: float) -> dict[int, Callable[[], int]]:
    return {
        0x00: lambda: round(gbps),
        0x08: lambda: port.counts.frames,
        0x10: lambda: port.retry.sent_again,
        0x18: lambda: port.counts.corrupt,
        0x20: lambda: port.credits.free[0],
        0x28: lambda: port.retry.kept,
    }
