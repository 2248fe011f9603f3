"""A pool of blocks in simulated time: a trace goes through an eviction policy, hits come out.

Semantics, which reproduce the published and our own earlier figures to two digits:

- A request's *hits* are its longest held prefix; hit % is hit blocks over all blocks.
- Then all its blocks are taken up and counted as used, from the last to the first.
- Then blocks are given up until the capacity is kept. The request's own may be among them: what
  goes at once was not worth writing. For LRU this is the same; for the bound it matters: 19.07 %
  at 1000 blocks of Mooncake's conversation trace, 17.92 % where a request's own must stay.

A pool that takes slots before it has the bytes (`kv.Store`) keeps a request's own blocks instead.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from starloom.kv.policies import Belady, PolicyOf, Returning
from starloom.twin.trace import TraceError, chats


@dataclass(frozen=True, slots=True)
class Prompt:
    """The blocks of one request, each of which stands for the whole prefix up to it."""

    at_s: float
    blocks: Sequence[int]


@dataclass(frozen=True, slots=True)
class PoolRun:
    """What a pool did with a trace."""

    blocks: int
    hits: int
    late_blocks: int
    """Blocks of the second half of all requests, for which nothing was tuned."""
    late_hits: int
    refused: int
    """New blocks that went at once, so that nothing would have been written."""

    @property
    def hit_pct(self) -> float:
        return 100 * self.hits / self.blocks if self.blocks else 0.0

    @property
    def late_hit_pct(self) -> float:
        return 100 * self.late_hits / self.late_blocks if self.late_blocks else 0.0


class _Line(msgspec.Struct):
    timestamp: float
    hash_ids: list[int]


def prompts(path: Path) -> list[Prompt]:
    """Read a trace in Mooncake's form, in order of time. Raises `TraceError`."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise TraceError(f"{path}: cannot be read: {error.strerror}") from error
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            one = msgspec.json.decode(line, type=_Line)
        except msgspec.DecodeError as error:
            raise TraceError(f"{path}:{number}: {error}") from error
        found.append(Prompt(one.timestamp / 1000, one.hash_ids))
    if not found:
        raise TraceError(f"{path}: holds no request")
    return sorted(found, key=lambda one: one.at_s)


def chat_prompts(seed: int, requests: int, per_s: float, block_tokens: int) -> list[Prompt]:
    """Drawn chats (`twin.chats`) as a pool sees them."""
    drawn = chats(seed, requests, per_s, block_tokens)
    return [Prompt(one.at_s, [int.from_bytes(key) for key in one.keys]) for one in drawn]


def replay_pool(trace: Sequence[Prompt], policy: PolicyOf[int], capacity: int) -> PoolRun:
    """Send a trace through a pool of `capacity` blocks."""
    held: set[int] = set()
    half = len(trace) // 2
    blocks = hits = late_blocks = late_hits = refused = 0
    for number, prompt in enumerate(trace):
        found = 0
        for block in prompt.blocks:
            if block not in held:
                break
            found += 1
        blocks += len(prompt.blocks)
        hits += found
        if number >= half:
            late_blocks += len(prompt.blocks)
            late_hits += found
        policy.touch(prompt.blocks, prompt.at_s)
        held.update(prompt.blocks)
        new: set[int] | None = None
        while len(held) > capacity:
            victim = policy.victim(_nothing)
            if victim is None:
                raise RuntimeError("the policy names no block although none is pinned")
            policy.forget(victim)
            held.remove(victim)
            if new is None:
                new = set(prompt.blocks[found:])
            refused += victim in new
    return PoolRun(blocks, hits, late_blocks, late_hits, refused)


def belady(trace: Sequence[Prompt]) -> Callable[[int], PolicyOf[int]]:
    """The bound for this very trace."""
    requests = [prompt.blocks for prompt in trace]
    return lambda capacity: Belady(capacity, requests)


def returning(trace: Sequence[Prompt]) -> Callable[[int], PolicyOf[int]]:
    """An oracle that knows only whether a block is ever used again: LRU among those that are."""
    requests = [prompt.blocks for prompt in trace]
    return lambda capacity: Returning(capacity, requests)


def _nothing(_: int) -> bool:
    return False
