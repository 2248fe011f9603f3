"""Credit-based flow control per virtual channel: a frame is sent only where room is known to be.

Room is counted in cells of 64 bytes. The receiver gives a cell back when it is read out; the sender
spends cells before it sends. For each channel, always:

    free at the sender + under way + held by the receiver + credits under way = the receiver's room

so nothing is ever dropped for want of room, and a slow channel never stops another.
"""

from starloom.fabric.scaleup.errors import BadTransaction

CELL_BYTES = 64


def cells(frame_bytes: int) -> int:
    """Cells that a frame occupies."""
    return -(-frame_bytes // CELL_BYTES)


def cells_for(gbps: float, round_trip_ns: float) -> int:
    """Room that keeps one channel at line rate: rate x round trip, in cells, rounded up."""
    return cells(round(gbps * round_trip_ns / 8))


class CreditSender:
    """The sender's side of one link."""

    def __init__(self, room: list[int]) -> None:
        self._room = tuple(room)
        self.free = list(room)
        """Cells known to be free, by channel."""

    def may_send(self, channel: int, frame_bytes: int) -> bool:
        return cells(frame_bytes) <= self.free[channel]

    def send(self, channel: int, frame_bytes: int) -> None:
        """Spend. Raises `BadTransaction` where `may_send` is false."""
        if not self.may_send(channel, frame_bytes):
            raise BadTransaction(f"channel {channel}: {cells(frame_bytes)} cells are not free")
        self.free[channel] -= cells(frame_bytes)

    def credited(self, channel: int, count: int) -> None:
        """Cells came back. Raises `BadTransaction` for more than were ever given."""
        if count < 0 or self.free[channel] + count > self._room[channel]:
            raise BadTransaction(f"channel {channel}: {count} cells back, more than are out")
        self.free[channel] += count


class CreditReceiver:
    """The receiver's side: what it holds, and what it owes."""

    def __init__(self, room: list[int]) -> None:
        self._room = tuple(room)
        self.held = [0] * len(room)
        self.owed = [0] * len(room)

    def arrived(self, channel: int, frame_bytes: int) -> None:
        """Raises `BadTransaction` for a frame that there is no room for: the sender cheats."""
        if self.held[channel] + self.owed[channel] + cells(frame_bytes) > self._room[channel]:
            raise BadTransaction(f"channel {channel}: a frame without credit")
        self.held[channel] += cells(frame_bytes)

    def read_out(self, channel: int, frame_bytes: int) -> None:
        """A frame left the buffer: its cells are owed to the sender."""
        self.held[channel] -= cells(frame_bytes)
        self.owed[channel] += cells(frame_bytes)

    def pay(self, channel: int) -> int:
        """Credits to send now."""
        count, self.owed[channel] = self.owed[channel], 0
        return count
