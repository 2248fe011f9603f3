"""The contract of a scheduling policy: rows of workers in, a decision out.

Policies are pure: they do no I/O, read no clock and keep no state but what their methods are told,
so that the gateway runs them on real requests and the twin on simulated ones.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy may know of a request."""

    prompt_tokens: int
    keys: Sequence[bytes] = ()
    """Keys of the prompt's full blocks, in order."""
    block_tokens: int = 64


class WorkerView(msgspec.Struct, frozen=True, kw_only=True):
    """One worker that could take the request."""

    name: str
    outstanding: int
    """Requests that it has and has not finished."""
    prefill_tokens: int
    """Prompt tokens that it has been given and has not answered a first token for."""
    overlap_blocks: int
    """Leading blocks of the request that it is believed to hold."""


class Decision(msgspec.Struct, frozen=True):
    """A worker's name, and why in words that fit a log line."""

    worker: str
    why: str


class Policy(Protocol):
    """Chooses among workers. May keep state of its own (a round-robin turn), but none of theirs."""

    def choose(self, ask: Ask, workers: Sequence[WorkerView]) -> Decision:
        """Pick one of `workers`, which is never empty and always in the same order."""
