"""The contract of a scheduling policy: rows of workers in, a decision out.

Policies are pure: they do no I/O, read no clock and keep no state but what their methods are told,
so that the gateway runs them on real requests and the twin on simulated ones. Time is an argument,
in seconds of any one clock.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import msgspec


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy may know of a request."""

    prompt_tokens: int
    keys: Sequence[bytes] = ()
    """Keys of the prompt's full blocks, in order."""
    block_tokens: int = 64
    now_s: float = 0.0
    """When it came."""
    priority: int = 0
    """Lower is more urgent; what is shed first has the highest."""
    ttft_target_s: float | None = None
    """The first token is wanted within this; None: whatever the policy's own target is."""
    tpot_target_s: float | None = None
    """The same for the mean time between later tokens."""


class WorkerView(msgspec.Struct, kw_only=True):
    """One worker that could take the request. True until the policy returns, not longer."""

    name: str
    outstanding: int = 0
    """Requests that it has and has not finished."""
    prefill_tokens: int = 0
    """Prompt tokens that it has been given and has not answered a first token for, less those that
    it was believed to hold."""
    overlap_blocks: int = 0
    """Leading blocks of the request that it is believed to hold, ready to use."""
    dram_blocks: int = 0
    """Leading blocks after those that it can fetch from host memory."""
    ssd_blocks: int = 0
    """Leading blocks after those again that it can fetch from disk."""
    prefills: int = 0
    """Requests that wait for their first token."""
    prefill_since_s: float = 0.0
    """Since when the prefill that runs now has had the worker: its last first token, or the first
    request after a pause."""
    context_tokens: int = 0
    """Prompt tokens of all unfinished requests."""
    kv_blocks: int = 0
    """Blocks that it can hold; 0 where that is not known."""


class Decision(msgspec.Struct, frozen=True):
    """A worker's name, and why in words that fit a log line."""

    worker: str
    why: str
    promised: bool = True
    """Whether it is expected to keep to target, where the policy knows of targets."""


class Shed(msgspec.Struct, frozen=True):
    """No worker takes it now: HTTP 429 with Retry-After."""

    retry_after_s: float
    why: str


class Trip(msgspec.Struct, kw_only=True):
    """One request on one worker: what the worker had to do when it came, and how long it took."""

    worker: str
    begun_s: float
    since_s: float
    """Since when the prefill ahead has had the worker; `begun_s` where there is none."""
    prefill_tokens: int
    """Its own prompt tokens that were not held."""
    ahead_tokens: int
    """Prefill that waited on the worker already."""
    outstanding: int
    """Other unfinished requests when it came."""
    context_tokens: int
    """Their prompt tokens and its own."""
    prompt_tokens: int
    ttft_target_s: float | None = None
    tpot_target_s: float | None = None
    promised: bool = True
    """As the decision said."""
    first_s: float | None = None
    ended_s: float | None = None
    answer_tokens: int = 0
    """Known at the end; 0 where nobody counted."""
    outstanding_at_end: int = 0
    context_at_end: int = 0


class Policy(Protocol):
    """Chooses among workers. May keep state of its own (a round-robin turn), but none of theirs."""

    def choose(self, ask: Ask, workers: Sequence[WorkerView]) -> Decision | Shed:
        """Pick one of `workers`, which is never empty and always in the same order."""


@runtime_checkable
class Forgetful(Protocol):
    """A policy that keeps something of each worker."""

    def forget(self, worker: str) -> None:
        """The worker is gone for good."""


@runtime_checkable
class Learner(Protocol):
    """A policy that wants to be told how its decisions went."""

    def learn(self, trip: Trip) -> None:
        """Once at the first token (`first_s` is new) and once at the end (`ended_s` is)."""
