"""The contract of a hand-over: KV of one prompt, from the worker that computes it to another.

The decode worker connects once it has blocks, says `Want`, and is sent a `Piece` for each stretch
of blocks of a layer as it is computed, then `First`: the token that the prefill worker drew, so
that the answer is what one worker alone would have said. Either side may close the connection at
any time, and that ends the transfer; after `First` or `Gone` it is free for the next one.
"""

from collections.abc import Callable
from typing import Protocol, TypeAlias

import msgspec

SILENCE_S = 5.0
"""A side that says nothing for so long is taken for dead, a name not heard of for unknown."""
HEARTBEAT_S = 1.0
LEASE_S = 30.0
"""So long a computed prompt waits for who wants it, and who wants one for it to go on."""


class HandoverError(Exception):
    """A transfer cannot go on; its connection is closed. The message fits a log line."""


class Want(msgspec.Struct, tag="want", frozen=True):
    """The decode worker asks for a transfer by its name."""

    name: str
    layout: str
    """What block contents look like and whose they are; both sides must have the same."""
    have: int
    """Leading blocks that it holds already."""


class Piece(msgspec.Struct, tag="piece", frozen=True):
    """`count` blocks from block `first` of the prompt on, one layer of them."""

    layer: int
    first: int
    count: int
    slot: int = 0
    """Where in the shared memory; not used where the bytes follow."""


class Waiting(msgspec.Struct, tag="waiting", frozen=True):
    """Nothing is ready yet."""


class First(msgspec.Struct, tag="first", frozen=True):
    """All pieces were sent; the first token of the answer, as `executor.Choice` has it."""

    token: int
    logprob: float
    top: list[tuple[int, float]]
    cached_tokens: int
    pool_tokens: int
    """As in `Usage`, of the prefill worker."""


class Gone(msgspec.Struct, tag="gone", frozen=True):
    """There is no such transfer (any more)."""

    why: str


class Taken(msgspec.Struct, tag="taken", frozen=True):
    """A slot of the shared memory was read and may be filled again."""

    slot: int


Frame: TypeAlias = Want | Piece | Waiting | First | Gone | Taken


class Sender(Protocol):
    """The prefill worker's end of a connection. Used by one thread.

    All calls may raise OSError or `HandoverError`, after which it is of no more use.
    """

    piece_bytes: int
    """The most that a piece may have."""

    def piece(self, piece: Piece, size: int, fill: Callable[[memoryview], None]) -> None:
        """Send a piece of `size` bytes that `fill` writes. Waits while the other side is behind."""

    def say(self, frame: Frame) -> None: ...

    def hear(self, timeout_s: float | None) -> Frame:
        """The next frame. TimeoutError when there is none in time; None waits for ever."""

    def close(self) -> None: ...


class Receiver(Protocol):
    """The decode worker's end. Errors as `Sender`; `close` may be called by another thread."""

    @property
    def alive(self) -> bool:
        """Whether an idle connection is there still."""

    def say(self, frame: Frame) -> None: ...

    def hear(self, timeout_s: float | None) -> tuple[Frame, memoryview]:
        """The next frame, and with a piece its bytes: good until the next call."""

    def close(self) -> None:
        """Wakes whoever is in a call."""
