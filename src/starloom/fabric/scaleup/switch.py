"""The switch: forwards by destination, copies to groups, and adds for them on the way.

A reduction waits until every member of its group has sent its share of one tag, then adds the
shares in the order of the members (not of their arrival, so that a float sum is the same every
time) and sends the result to each. Each chip sends S and receives S; a ring sends 2S(n-1)/n.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from starloom.fabric.scaleup.base import (
    VIRTUAL_CHANNELS,
    Channel,
    Fault,
    Frame,
    Op,
    Reduction,
    Transaction,
)
from starloom.fabric.scaleup.port import Clock, LinkConfig, Port

QUEUE = 64
"""Transactions that may wait for one way out, per channel, before the way in stands still."""

_DTYPES = {Reduction.ADD_F32: "<f4", Reduction.ADD_I32: "<i4", Reduction.MAX_F32: "<f4"}


def reduced(shares: Sequence[bytes], how: Reduction) -> bytes:
    """Element by element, in the order of `shares`."""
    total = np.frombuffer(shares[0], dtype=_DTYPES[how]).copy()
    for share in shares[1:]:
        other = np.frombuffer(share, dtype=_DTYPES[how])
        with np.errstate(over="ignore"):
            total = np.maximum(total, other) if how is Reduction.MAX_F32 else total + other
    return total.astype(_DTYPES[how]).tobytes()


@dataclass(slots=True)
class _Gathering:
    """Shares of one reduction that have come."""

    shares: dict[int, bytes] = field(default_factory=dict)


class Switch:
    """One switch card: a port to and from every node."""

    def __init__(self, config: LinkConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self.out: dict[int, Port] = {}
        """By node: the link towards it."""
        self._in: dict[int, Port] = {}
        self._held: dict[int, list[deque[tuple[Frame, int]]]] = {}
        self._groups: dict[int, tuple[int, ...]] = {}
        self._gathering: dict[tuple[int, int, int], _Gathering] = {}
        self.copies = 0
        self.reductions = 0
        self.unknown = 0
        """Transactions for nodes or groups that are not here; each is answered with a fault."""

    def connect(self, node: int, inward: Port, outward: Port) -> None:
        self._in[node], self.out[node] = inward, outward
        self._held[node] = [deque() for _ in range(VIRTUAL_CHANNELS)]
        outward.on_room = self._wake

    def group(self, number: int, members: Sequence[int]) -> None:
        """Make a group that can be multicast and reduced to."""
        self._groups[number] = tuple(members)

    def receiver(self, node: int) -> Callable[[Frame, int], None]:
        """What the link from `node` delivers to."""

        def arrived(frame: Frame, octets: int) -> None:
            def ready() -> None:
                self._held[node][frame.channel].append((frame, octets))
                self._drain(node, frame.channel)

            self._clock.after(self._config.switch_ns, ready)

        return arrived

    def _wake(self) -> None:
        for node, channels in self._held.items():
            for channel, held in enumerate(channels):
                if held:
                    self._drain(node, channel)

    def _drain(self, node: int, channel: int) -> None:
        """Forward in order while the ways out have room; else the input's credits stay spent."""
        held = self._held[node][channel]
        while held:
            frame, octets = held[0]
            if any(self.out[to].queued(channel) >= QUEUE for to in self._ways(frame)):
                return
            held.popleft()
            self._in[node].read_out(channel, octets)
            self._forward(frame)

    def _ways(self, frame: Frame) -> tuple[int, ...]:
        if frame.to_group:
            return self._groups.get(frame.destination, ())
        return (frame.destination,) if frame.destination in self.out else ()

    def _forward(self, frame: Frame) -> None:
        ways = self._ways(frame)
        if not ways or (frame.to_group and frame.source not in ways):
            self._refuse(frame)
            return
        for one in frame.transactions:
            if one.op is Op.REDUCE:
                self._reduce(frame, one, ways)
                continue
            self.copies += len(ways) - 1
            for to in ways:
                self.out[to].put(
                    frame.channel, (frame.source, frame.destination, frame.to_group, one)
                )

    def _refuse(self, frame: Frame) -> None:
        for one in frame.transactions:
            self.unknown += 1
            if frame.source in self.out and not one.op.is_answer:
                fault = Transaction(Op.FAULT, one.offset, one.tag, b"", Fault.NO_NODE)
                back = (frame.destination, frame.source, False, fault)
                self.out[frame.source].put(Channel.ANSWER, back)

    def _reduce(self, frame: Frame, share: Transaction, members: tuple[int, ...]) -> None:
        key = frame.destination, share.tag, share.offset
        gathering = self._gathering.setdefault(key, _Gathering())
        gathering.shares[frame.source] = share.payload
        if len(gathering.shares) < len(members):
            return
        del self._gathering[key]
        ordered = [gathering.shares[member] for member in members]
        if len({len(one) for one in ordered}) > 1 or len(ordered[0]) % 4:
            fault = Transaction(Op.FAULT, share.offset, share.tag, b"", Fault.BAD_LENGTH)
            for member in members:
                self.out[member].put(Channel.ANSWER, (frame.destination, member, False, fault))
            return
        self.reductions += 1
        result = reduced(ordered, Reduction(share.argument))
        done = Transaction(Op.REDUCE, share.offset, share.tag, result, share.argument)
        for member in members:
            self.out[member].put(frame.channel, (frame.source, frame.destination, True, done))
