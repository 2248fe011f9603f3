"""One direction of a link: queues per virtual channel, credits, retry, and a wire that errs.

Time is in nanoseconds and comes from a `Clock`, so that a port has no thread and no loop of its
own. Acknowledgements and credits travel in preambles: they take the wire's latency and none of its
rate.
"""

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from starloom.fabric.scaleup import codec
from starloom.fabric.scaleup.base import (
    MAX_FRAME_BODY,
    VIRTUAL_CHANNELS,
    WIRE_EXTRA_BYTES,
    Frame,
    Transaction,
)
from starloom.fabric.scaleup.credits import CreditReceiver, CreditSender, cells
from starloom.fabric.scaleup.errors import BadFrame
from starloom.fabric.scaleup.retry import Preamble, RetryReceiver, RetrySender


class Clock:
    """Simulated time: events in the order of time, then of their making."""

    def __init__(self) -> None:
        self.now_ns = 0.0
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._made = 0

    def after(self, delay_ns: float, action: Callable[[], None]) -> None:
        self._made += 1
        heapq.heappush(self._heap, (self.now_ns + delay_ns, self._made, action))

    def run(self, most_events: int) -> bool:
        """Until nothing is left; False when `most_events` were not enough."""
        for _ in range(most_events):
            if not self._heap:
                return True
            self.now_ns, _, action = heapq.heappop(self._heap)
            action()
        return not self._heap


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """One link.

    Defaults are SUE-Sim's where it has one (130 ns switch, 10 ns link, 12 + 5 + 8 ns to send;
    kaima2022/SUE-Sim @badd5f1, configuration.md), the rest is assumed.
    """

    gbps: float = 400.0
    link_ns: float = 10.0
    send_ns: float = 25.0
    """Packing, header and channel scheduling, before the first bit."""
    switch_ns: float = 130.0
    """From the last bit in to the queue of the way out."""
    memory_ns: float = 300.0
    """A read or atomic at its owner; assumed."""
    room_cells: int = 128
    """Of each virtual channel at the receiver; SUE-Sim's 85 are for frames of 2,500 bytes."""
    window: int = 128
    """Frames that retry keeps."""
    pack: int = 8
    """Transactions that share a frame when they wait for the same node."""
    timeout_ns: float = 5_000.0
    """Without a word from the other side, everything is sent again."""
    corrupt: float = 0.0
    """Probability that a frame on this wire is damaged."""
    lose: float = 0.0
    """Probability that a frame or a word of control is lost altogether."""

    def serial_ns(self, frame_bytes: int) -> float:
        """A frame of so many octets on the wire, preamble and gap included."""
        return (frame_bytes + WIRE_EXTRA_BYTES) * 8 / self.gbps


Waiting = tuple[int, int, bool, Transaction]
"""Source, destination, whether to a group, and what."""


@dataclass(slots=True)
class Counts:
    frames: int = 0
    payload_bytes: int = 0
    wire_bytes: int = 0
    corrupt: int = 0


class Port:
    """The sending side, and the receiving end of the same wire with it."""

    def __init__(
        self, config: LinkConfig, clock: Clock, rng: Random, deliver: Callable[[Frame, int], None]
    ) -> None:
        self._config = config
        self._clock = clock
        self._rng = rng
        self._deliver = deliver
        """Called with each frame in order and its octets; the owner calls `read_out` for it."""
        room = [config.room_cells] * VIRTUAL_CHANNELS
        self.credits, self.receiver = CreditSender(room), CreditReceiver(room)
        self.credits_under_way = [0] * VIRTUAL_CHANNELS
        self.retry, self._ordered = RetrySender(config.window), RetryReceiver()
        self._queues: list[deque[Waiting]] = [deque() for _ in range(VIRTUAL_CHANNELS)]
        self._again: deque[tuple[int, bytes]] = deque()
        self._busy = False
        self._turn = 0
        self._heard_ns = 0.0
        self._watching = False
        self.counts = Counts()
        self.on_room: Callable[[], None] = lambda: None
        """Called when a queue got shorter."""

    def put(self, channel: int, waiting: Waiting) -> None:
        """Queue a transaction."""
        self._queues[channel].append(waiting)
        self._pump()

    def queued(self, channel: int) -> int:
        return len(self._queues[channel])

    def read_out(self, channel: int, frame_bytes: int) -> None:
        """The receiver's owner took a frame out of the buffer; its room goes back to the sender."""
        self.receiver.read_out(channel, frame_bytes)
        count = self.receiver.pay(channel)
        self.credits_under_way[channel] += count

        def arrives() -> None:
            self.credits_under_way[channel] -= count
            self.credits.credited(channel, count)
            self._pump()

        # Credits are counted, not announced one by one: a lost word is made good by the next.
        self._clock.after(self._config.link_ns, arrives)

    def _pump(self) -> None:
        if self._busy:
            return
        if self._again:
            sequence, octets = self._again.popleft()
        elif self.retry.has_room and (frame := self._next_frame()) is not None:
            octets = codec.encode(frame)
            self.credits.send(frame.channel, len(octets))
            sequence = self.retry.send(octets)
            self.counts.payload_bytes += sum(len(one.payload) for one in frame.transactions)
            self.on_room()
        else:
            return
        self._busy = True
        serial = self._config.serial_ns(len(octets))
        self.counts.frames += 1
        self.counts.wire_bytes += len(octets) + WIRE_EXTRA_BYTES
        self._clock.after(self._config.send_ns + serial, self._sent)
        damaged = self._damage(octets)
        if damaged is not None:
            delay = self._config.send_ns + serial + self._config.link_ns
            self._clock.after(delay, lambda: self._arrives(sequence, damaged))
        self._watch()

    def _sent(self) -> None:
        self._busy = False
        self._pump()

    def _next_frame(self) -> Frame | None:
        """Channels take turns; a queue's head takes along those behind it for the same node."""
        for step in range(VIRTUAL_CHANNELS):
            channel = (self._turn + step) % VIRTUAL_CHANNELS
            queue = self._queues[channel]
            if not queue:
                continue
            source, destination, to_group, _ = queue[0]
            taken: list[Transaction] = []
            body = 0
            for waiting in queue:
                size = codec.ENTRY.size + len(waiting[3].payload)
                fits = body + size <= MAX_FRAME_BODY and len(taken) < self._config.pack
                if waiting[:3] != (source, destination, to_group) or not fits:
                    break
                octets = max(codec.HEAD.size + body + size, codec.LEAST) + codec.CHECK.size
                if not self.credits.may_send(channel, octets):
                    break
                taken.append(waiting[3])
                body += size
            if taken:
                for _ in taken:
                    queue.popleft()
                self._turn = (channel + 1) % VIRTUAL_CHANNELS
                return Frame(source, destination, channel, tuple(taken), to_group)
        return None

    def _damage(self, octets: bytes) -> bytes | None:
        """What the wire makes of a frame: whole, one bit wrong, or nothing."""
        if self._config.lose and self._rng.random() < self._config.lose:
            return None
        if self._config.corrupt and self._rng.random() < self._config.corrupt:
            bit = self._rng.randrange(8 * len(octets))
            wrong = bytearray(octets)
            wrong[bit // 8] ^= 1 << bit % 8
            return bytes(wrong)
        return octets

    def _arrives(self, sequence: int, octets: bytes) -> None:
        try:
            frame = codec.decode(octets)
        except BadFrame:
            frame = None
            self.counts.corrupt += 1
        wanted, answer = self._ordered.received(sequence, frame is not None)
        if wanted and frame is not None:
            self.receiver.arrived(frame.channel, len(octets))
            self._deliver(frame, len(octets))
        if not (self._config.lose and self._rng.random() < self._config.lose):
            self._clock.after(self._config.link_ns, lambda: self._heard(answer))

    def _heard(self, preamble: Preamble) -> None:
        self._heard_ns = self._clock.now_ns
        again = self.retry.received(preamble)
        if again:
            self._again = deque(again)
        self._pump()

    def _watch(self) -> None:
        if not self._watching:
            self._watching = True
            self._heard_ns = self._clock.now_ns
            self._clock.after(self._config.timeout_ns, self._look)

    def _look(self) -> None:
        self._watching = False
        if not self.retry.kept:
            return
        if self._clock.now_ns - self._heard_ns >= self._config.timeout_ns and not self._again:
            self._again = deque(self.retry.again())
            self._pump()
        self._watch()

    def conserved(self) -> bool:
        """Whether every cell of room is somewhere: free, under way, held, or coming back."""
        under_way = [0] * VIRTUAL_CHANNELS
        unread = self.retry.unconfirmed(self._ordered.acknowledged)
        for octets in unread:
            under_way[octets[1] >> 2 & 0b111] += cells(len(octets))
        return all(
            self.credits.free[channel]
            + under_way[channel]
            + self.receiver.held[channel]
            + self.receiver.owed[channel]
            + self.credits_under_way[channel]
            == self._config.room_cells
            for channel in range(VIRTUAL_CHANNELS)
        )
