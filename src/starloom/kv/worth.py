"""Whether a prefix is worth loading from where it lies, or better computed again.

Two clocks run against each other: blocks come from a tier one after the other, and the engine could
compute the same tokens meanwhile. Both speeds are learned from what just happened, since a disk
that others use or an engine that is busy is as slow as it is now, not as its data sheet says.

- *Computing* tokens [p, p + n) of a prompt takes a + b n + c (n p + n (n + 1) / 2) seconds: a fixed
  cost, the matrices, and attention to what precedes (as `plan.step_time`).
- *Loading* n blocks takes latency + bytes / rate, behind the bytes that are on their way already.

`blocks_worth_loading` picks the stop at which most is gained; `Race` gives a load up while it runs
once computing the rest would be faster than it goes on. What a wrong guess costs is then about one
round of reads, and the guess is better the next time.

Pure: no clock, no I/O. Times in seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FORGET = 0.98
"""Weight of the past at each observation: about the last fifty count."""
FIRST_WEIGHT = 1e-6
"""Of what is assumed before anything was seen."""
TOLERANCE = 0.05
"""A load that is given up must not have cost more than this share of computing."""


class ComputeSpeed:
    """Seconds to compute tokens, learned by recursive least squares from steps of an engine."""

    def __init__(self, seconds_per_token: float, fixed_s: float = 0.0) -> None:
        """What to assume until steps were seen."""
        self._assumed = np.array([fixed_s, seconds_per_token, 0.0])
        scale = np.array([1.0, 1e3, 1e7])
        self._scale = scale
        self._normal = FIRST_WEIGHT * np.eye(3)
        self._seen = self._normal @ (self._assumed * scale)
        self._parts = self._assumed

    def observe(self, tokens: int, past: int, seconds: float) -> None:
        """A step computed `tokens` of one prompt after `past` others."""
        row = _features(tokens, past) / self._scale
        self._normal = FORGET * self._normal + np.outer(row, row)
        self._seen = FORGET * self._seen + row * seconds
        self._parts = _nonnegative(self._normal, self._seen) / self._scale

    def seconds(self, tokens: int, past: int) -> float:
        """To compute `tokens` after `past` others in one step."""
        return float(_features(tokens, past) @ self._parts)

    def seconds_of_blocks(self, blocks: int, block_tokens: int, past: int) -> NDArray[np.float64]:
        """Of each of the blocks that follow `past` tokens: what it adds to a step that goes on."""
        starts = past + block_tokens * np.arange(blocks)
        _, linear, quadratic = self._parts
        pairs = block_tokens * starts + block_tokens * (block_tokens + 1) / 2
        costs: NDArray[np.float64] = linear * block_tokens + quadratic * pairs
        return costs


class LoadSpeed:
    """Latency and rate of one tier, learned from loads as they end."""

    def __init__(self, bytes_per_s: float, latency_s: float) -> None:
        """What to assume until loads were seen."""
        self.latency_s = latency_s
        self._bytes = FIRST_WEIGHT * bytes_per_s
        self._seconds = FIRST_WEIGHT

    @property
    def bytes_per_s(self) -> float:
        return self._bytes / self._seconds

    def observe(self, size_bytes: int, seconds: float) -> None:
        """A load of that size took so long, from its turn to its end."""
        moving_s = seconds - self.latency_s
        if moving_s < seconds / 2:  # mostly latency: it says little of the rate
            self.latency_s += 0.1 * (seconds - self.latency_s)
            moving_s = seconds / 2
        self._bytes = FORGET * self._bytes + size_bytes
        self._seconds = FORGET * self._seconds + moving_s

    def seconds(self, size_bytes: float, queued_bytes: float = 0.0) -> float:
        """To load so much behind what is queued."""
        return self.latency_s + (queued_bytes + size_bytes) / self.bytes_per_s


def blocks_worth_loading(
    compute_s: Sequence[float] | NDArray[np.float64],
    load_s: Sequence[float] | NDArray[np.float64],
    first_s: float,
) -> int:
    """How many leading blocks to load: the stop at which most time is saved, 0 where none is.

    `compute_s` and `load_s`: of each block, in order, shape (n,). `first_s`: what loading anything
    costs, however little. Of equal stops the shorter one.
    """
    saved = np.cumsum(np.asarray(compute_s) - np.asarray(load_s)) - first_s
    if not saved.size:
        return 0
    best = int(np.argmax(saved))
    return best + 1 if saved[best] > 0 else 0


@dataclass(slots=True)
class Race:
    """A load under way: until when to wait for its next block before computing is the better bet.

    Blocks come in order, `at_once` of them are read together. If none has come for w seconds, the
    tier gives at best `at_once` blocks in w, so the rest takes at least `rest / at_once * w`. It is
    given up when that exceeds what computing the rest takes.
    """

    compute_s: NDArray[np.float64]
    """Of each block."""
    at_once: int
    began_s: float
    latency_s: float
    come: int = 0
    last_s: float = 0.0

    def __post_init__(self) -> None:
        self.last_s = self.began_s

    def arrived(self, blocks: int, now_s: float) -> None:
        """So many more are there."""
        self.come += blocks
        self.last_s = now_s

    @property
    def give_up_s(self) -> float:
        """If nothing comes until this time, stop waiting."""
        rest = len(self.compute_s) - self.come
        if rest <= 0:
            return self.last_s
        compute_rest_s = float(self.compute_s[self.come :].sum())
        rounds = -(-rest // self.at_once)
        slack_s = self.latency_s if not self.come else 0.0
        return (
            self.last_s
            + slack_s
            + max(compute_rest_s / rounds, TOLERANCE * float(self.compute_s.sum()))
        )


def _features(tokens: int, past: int) -> NDArray[np.float64]:
    return np.array([1.0, tokens, tokens * past + tokens * (tokens + 1) / 2])


def _nonnegative(normal: NDArray[np.float64], seen: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least squares with no negative part: drop what is negative until none is."""
    use = np.ones(len(seen), bool)
    parts = np.zeros(len(seen))
    while use.any():
        ridge = normal[np.ix_(use, use)]
        parts[:] = 0.0
        parts[use] = np.linalg.lstsq(ridge, seen[use], rcond=None)[0]
        if (parts >= 0).all():
            break
        use &= parts >= 0
    return np.maximum(parts, 0.0)
