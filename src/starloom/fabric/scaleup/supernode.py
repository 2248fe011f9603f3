"""A supernode that runs: nodes with memory and windows, switch cards between them, simulated time.

Ordering, which a program may rely on:

1. Requests of one node for one address are carried out in the order in which they were made: an
   address always takes the same card, a link delivers in order, a switch keeps order per channel.
2. Requests for different addresses may pass each other (they may take different cards), and so may
   answers.
3. A fence is done when everything that its node asked before is answered; what is asked after it is
   not sent earlier.
4. An answer means carried out: a store that is done is seen by every later load of any node.
"""

import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from starloom.fabric.scaleup.base import (
    MAX_PAYLOAD,
    Address,
    Atomic,
    Channel,
    Fault,
    Frame,
    Op,
    Reduction,
    Transaction,
)
from starloom.fabric.scaleup.errors import BadSupernode, BadTransaction, Refused
from starloom.fabric.scaleup.port import Clock, LinkConfig, Port
from starloom.fabric.scaleup.switch import Switch
from starloom.fabric.scaleup.windows import Windows

STRIPE_BYTES = 4096
"""Addresses change the card every so many bytes."""
MAX_NODES = 1024
_WORD = struct.Struct("<Q")
_MASK = (1 << 64) - 1


@dataclass(slots=True)
class Handle:
    """One thing asked for; filled in while the clock runs."""

    op: Op
    asked_ns: float
    done_ns: float | None = None
    value: bytes = b""
    fault: Fault | None = None

    @property
    def ns(self) -> float:
        """From asking to the answer. Raises `Refused`, or `BadTransaction` while under way."""
        self.result()
        return (self.done_ns or 0.0) - self.asked_ns

    def result(self) -> bytes:
        """What came back. Raises `Refused` for a refused access."""
        if self.fault is not None:
            raise Refused(f"{self.op.name} was refused: {self.fault.name}")
        if self.done_ns is None:
            raise BadTransaction(f"{self.op.name} is still under way: run the supernode")
        return self.value


class Node:
    """One chip: memory, the windows that it grants, and what it asked for."""

    def __init__(self, number: int, memory_bytes: int, config: LinkConfig, clock: Clock) -> None:
        self.number = number
        self.memory = bytearray(memory_bytes)
        self.windows = Windows(memory_bytes)
        self.links: list[Port] = []
        """By card, outward."""
        self._config = config
        self._clock = clock
        self._asked: dict[int, Handle] = {}
        self._tag = 0
        self._waiting: deque[tuple[Channel, int, bool, Transaction, Handle]] = deque()

    def load(self, address: Address, size: int) -> Handle:
        """Read `size` bytes, 4,096 at most."""
        if not 1 <= size <= MAX_PAYLOAD:
            raise BadTransaction(f"a load of {size} bytes: give 1 to {MAX_PAYLOAD}")
        return self._ask(Op.LOAD, address, struct.pack(">I", size))

    def store(self, address: Address, payload: bytes) -> Handle:
        return self._ask(Op.STORE, address, payload)

    def atomic(self, address: Address, how: Atomic, operand: int, expected: int = 0) -> Handle:
        """A 64-bit operation; the value before it comes back, little-endian."""
        operands = _WORD.pack(operand & _MASK)
        if how is Atomic.COMPARE_SWAP:
            operands = _WORD.pack(expected & _MASK) + operands
        return self._ask(Op.ATOMIC, address, operands, argument=how)

    def multicast(self, group: int, offset: int, payload: bytes) -> Handle:
        """Store to the same offset of every member; done when this node has its own copy."""
        return self._collective(Op.MULTICAST, group, offset, payload, 0)

    def reduce(
        self, group: int, offset: int, share: bytes, tag: int, how: Reduction = Reduction.ADD_F32
    ) -> Handle:
        """Give a share; the sum of all members' shares is stored at `offset` of each.

        Members name one reduction by the same `tag` and offset.
        """
        return self._collective(Op.REDUCE, group, offset, share, how, tag=tag)

    def fence(self) -> Handle:
        """Done when all asked before is answered; what is asked after waits for it."""
        handle = Handle(Op.FENCE, self._clock.now_ns)
        fence = Transaction(Op.FENCE, 0, 0)
        self._waiting.append((Channel.REQUEST, self.number, False, fence, handle))
        self._send_waiting()
        return handle

    def arrived(self, frame: Frame, octets: int, port: Port) -> None:
        """A frame of the link from a card: carry out, answer, make room."""
        port.read_out(frame.channel, octets)
        for one in frame.transactions:
            if one.op.is_answer:
                self._answered(one)
            elif one.op is Op.REDUCE or frame.to_group:
                self._from_group(frame, one)
            else:
                self._carry_out(frame, one)

    def _ask(self, op: Op, address: Address, payload: bytes, argument: int = 0) -> Handle:
        handle = Handle(op, self._clock.now_ns)
        asked = Transaction(op, address.offset, self._new_tag(handle), payload, argument)
        self._waiting.append((Channel.REQUEST, address.node, False, asked, handle))
        self._send_waiting()
        return handle

    def _collective(
        self, op: Op, group: int, offset: int, payload: bytes, argument: int, tag: int | None = None
    ) -> Handle:
        handle = Handle(op, self._clock.now_ns)
        number = self._new_tag(handle, tag)
        asked = Transaction(op, offset, number, payload, argument)
        self._waiting.append((Channel.COLLECTIVE, group, True, asked, handle))
        self._send_waiting()
        return handle

    def _new_tag(self, handle: Handle, wanted: int | None = None) -> int:
        if len(self._asked) >= 1 << 15:
            raise BadTransaction("32,768 requests are under way: run the supernode first")
        if wanted is None:
            while self._tag in self._asked:
                self._tag = (self._tag + 1) % (1 << 15)
            wanted = self._tag
        else:
            wanted |= 1 << 15  # tags that members agree on have a range of their own
        if wanted in self._asked:
            raise BadTransaction(f"tag {wanted & 0x7FFF} is under way: give another")
        self._asked[wanted] = handle
        return wanted

    def _send_waiting(self) -> None:
        """In order; a fence stops the line until everything before it is answered."""
        while self._waiting:
            channel, to, to_group, one, handle = self._waiting[0]
            if one.op is Op.FENCE:
                unsent = {other.tag for *_, other, _ in self._waiting if other.op is not Op.FENCE}
                if self._asked.keys() - unsent:
                    return
                self._waiting.popleft()
                handle.done_ns = self._clock.now_ns
                continue
            self._waiting.popleft()
            card = one.offset // STRIPE_BYTES % len(self.links)
            self.links[card].put(channel, (self.number, to, to_group, one))

    def _answered(self, answer: Transaction) -> None:
        handle = self._asked.pop(answer.tag, None)
        if handle is None:
            return
        handle.done_ns = self._clock.now_ns
        handle.value = answer.payload
        if answer.op is Op.FAULT:
            handle.fault = Fault(answer.argument)
        self._send_waiting()

    def _carry_out(self, frame: Frame, asked: Transaction) -> None:
        length = len(asked.payload)
        if asked.op is Op.LOAD:
            length = struct.unpack(">I", asked.payload)[0] if length == 4 else 0
        elif asked.op is Op.ATOMIC:
            length = 8 if length == (16 if asked.argument == Atomic.COMPARE_SWAP else 8) else 0
        fault = self.windows.check(frame.source, asked.op, asked.offset, length)
        if fault is not None:
            self._answer(frame, Transaction(Op.FAULT, asked.offset, asked.tag, b"", fault), 0.0)
            return
        begin, end = asked.offset, asked.offset + length
        if asked.op is Op.STORE:
            self.memory[begin:end] = asked.payload
            self._answer(frame, Transaction(Op.DONE, begin, asked.tag), 0.0)
            return
        before = bytes(self.memory[begin:end])
        if asked.op is Op.ATOMIC:
            self.memory[begin:end] = _after(before, asked)
        data = Transaction(Op.DATA, begin, asked.tag, before)
        self._answer(frame, data, self._config.memory_ns)

    def _answer(self, frame: Frame, answer: Transaction, delay_ns: float) -> None:
        card = answer.offset // STRIPE_BYTES % len(self.links)
        back = (self.number, frame.source, False, answer)
        self._clock.after(delay_ns, lambda: self.links[card].put(Channel.ANSWER, back))

    def _from_group(self, frame: Frame, one: Transaction) -> None:
        """A copy, or a sum: it is for all members, and done for the one who waits for it."""
        writer = self.number if one.op is Op.REDUCE else frame.source
        length = len(one.payload)
        own = writer == self.number
        fault = None if own else self.windows.check(writer, one.op, one.offset, length)
        if one.offset + length > len(self.memory):
            fault = fault or Fault.NO_WINDOW
        if fault is None:
            self.memory[one.offset : one.offset + length] = one.payload
        if own:
            op = Op.FAULT if fault is not None else Op.DONE
            self._answered(Transaction(op, one.offset, one.tag, b"", fault or 0))


def _after(before: bytes, asked: Transaction) -> bytes:
    """The word after an atomic operation."""
    old = _WORD.unpack(before)[0]
    operand = _WORD.unpack(asked.payload[-8:])[0]
    match Atomic(asked.argument):
        case Atomic.FETCH_ADD:
            new = old + operand
        case Atomic.SWAP:
            new = operand
        case Atomic.COMPARE_SWAP:
            new = operand if old == _WORD.unpack(asked.payload[:8])[0] else old
        case Atomic.FETCH_AND:
            new = old & operand
        case Atomic.FETCH_OR:
            new = old | operand
        case Atomic.FETCH_XOR:
            new = old ^ operand
    return _WORD.pack(new & _MASK)


class Supernode:
    """Nodes, each with one link to every card; deterministic in its seed."""

    def __init__(
        self,
        nodes: int,
        *,
        cards: int = 1,
        memory_bytes: int = 1 << 16,
        config: LinkConfig | None = None,
        seed: int = 0,
    ) -> None:
        """Raises `BadSupernode` for sizes that cannot be."""
        if not 2 <= nodes <= MAX_NODES or not 1 <= cards <= 64:
            raise BadSupernode(f"{nodes} nodes, {cards} cards: give 2 to {MAX_NODES}, 1 to 64")
        self.config = config or LinkConfig()
        self.clock = Clock()
        rng = Random(seed)
        self.nodes = [Node(n, memory_bytes, self.config, self.clock) for n in range(nodes)]
        self.switches = [Switch(self.config, self.clock) for _ in range(cards)]
        self.ports: list[Port] = []
        for switch in self.switches:
            for node in self.nodes:
                self._connect(node, switch, rng)

    def _connect(self, node: Node, switch: Switch, rng: Random) -> None:
        up = Port(self.config, self.clock, rng, switch.receiver(node.number))

        def delivered(frame: Frame, octets: int) -> None:
            node.arrived(frame, octets, down)

        down = Port(self.config, self.clock, rng, delivered)
        switch.connect(node.number, up, down)
        node.links.append(up)
        self.ports += [up, down]

    def group(self, number: int, members: Sequence[int]) -> None:
        """Make a group on every card. Raises `BadSupernode` for members that are not here."""
        if len(set(members)) < 2 or not all(0 <= one < len(self.nodes) for one in members):
            raise BadSupernode(f"group {number} of {list(members)}: give two or more nodes of this")
        for switch in self.switches:
            switch.group(number, members)

    def run(self, most_events: int = 10_000_000) -> None:
        """Until nothing moves. Raises `BadSupernode` where that does not happen."""
        if not self.clock.run(most_events):
            raise BadSupernode(
                f"{most_events} events were not enough: a link that delivers nothing?"
            )
