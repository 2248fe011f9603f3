"""The contract between gateways that serve one site together.

Each tells what *it* has under way and has spent, as absolute figures; a view is the sum over all.
So a message that is lost, late or doubled is put right by the next one, a gateway that dies takes
its figures with it, and no count can drift. Nobody waits: a decision uses what has been told.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec


class Counts(NamedTuple):
    """What one gateway has under way on one worker."""

    outstanding: int = 0
    prefill_tokens: int = 0
    prefills: int = 0
    context_tokens: int = 0


class Spent(NamedTuple):
    """What one gateway has let a tenant use since it began."""

    requests: int = 0
    tokens: int = 0


class Frame(msgspec.Struct, array_like=True):
    """One message: news, or (`full`) all that holds."""

    peer: str
    """Names one life of one gateway process."""
    full: bool
    counts: dict[str, Counts]
    spent: dict[str, Spent]
    seen: list[tuple[str, bytes]]
    """(worker, the first 8 bytes of each key of a chain) that the worker was sent."""
    connections: int = 0
    samples: dict[str, dict[str, float]] = {}
    """What the peer counted for its metrics page: in full frames on the same machine only."""
    members: bytes = b""
    """Workers that were changed at run time, signed; in full frames, and where that is news."""


class View(Protocol):
    """What a gateway keeps for itself, and adds what it is told of to."""

    def own(self) -> Mapping[str, Counts]:
        """What this gateway has under way, by worker."""

    def changed(self) -> Mapping[str, Counts]:
        """The part of `own` that changed since the last call."""

    def others(self, worker: str, counts: Counts) -> None:
        """What all others together have under way there. Unknown workers are passed over."""

    def seen(self, worker: str, keys: Sequence[bytes]) -> None:
        """Another gateway sent the worker a prompt with these keys."""

    def spent(self) -> Mapping[str, Spent]:
        """What this gateway's tenants have used, by tenant."""

    def others_spent(self, tenant: str, more: Spent) -> None:
        """Another gateway let the tenant use so much more."""


class Bus(Protocol):
    """Carries frames to all other gateways, in order, or not at all."""

    near: bool
    """Whether it leads to processes of the same machine, which are scraped as one."""

    async def run(self, take: Callable[[bytes], None], left: Callable[[str], None]) -> None:
        """Connect and reconnect for ever; `left` is told the name of a peer that is gone."""

    def send(self, frame: bytes) -> None:
        """To all that can be reached now. Never waits; drops what does not fit."""

    def named(self, peer: str) -> None:
        """Begin a new life under this name."""
