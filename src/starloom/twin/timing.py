"""How long an emulated worker's steps take: the twin's view of `starloom.plan`, and a peer's."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from starloom.plan import Batch, step_time
from starloom.site import Chip, ModelShape

Seconds = NDArray[np.float64]


class StepTimer(Protocol):
    """Times steps. `used` is the share of the worker's KV blocks that sequences hold."""

    def step_s(
        self, prefill: Sequence[tuple[int, int]], decode: Sequence[int], used: float
    ) -> float:
        """One step of chunks (new tokens, tokens cached) and decoding sequences (tokens cached)."""

    def decode_s(self, sequences: int, context_tokens: int, used: Seconds) -> Seconds:
        """Consecutive steps, one for each value of `used`, of sequences that only decode.

        `context_tokens` are cached before the first step, in all of them together.
        """


class RooflineTimer:
    """`plan.step_time` on one chip."""

    def __init__(self, chip: Chip, shape: ModelShape) -> None:
        self._chip = chip
        self._shape = shape
        self._decode = cache(self._lines)

    def step_s(
        self,
        prefill: Sequence[tuple[int, int]],
        decode: Sequence[int],
        used: float,  # noqa: ARG002
    ) -> float:
        return step_time(self._chip, self._shape, Batch(prefill=prefill, decode=decode)).total_s

    def decode_s(self, sequences: int, context_tokens: int, used: Seconds) -> Seconds:
        """Exact: at a given number of sequences both limits of attention are straight lines."""
        lines = self._decode(sequences)
        context = context_tokens + sequences * np.arange(len(used))
        compute_s = lines.compute_s + lines.compute_s_per_token * context
        memory_s = lines.memory_s + lines.memory_s_per_token * context
        return np.asarray(lines.fixed_s + np.maximum(compute_s, memory_s))

    def _lines(self, sequences: int) -> "_Lines":
        none = step_time(self._chip, self._shape, Batch(decode=[0] * sequences))
        one = step_time(self._chip, self._shape, Batch(decode=[1] + [0] * (sequences - 1)))
        return _Lines(
            fixed_s=none.total_s - none.attention.time_s,
            compute_s=none.attention.compute_s,
            compute_s_per_token=one.attention.compute_s - none.attention.compute_s,
            memory_s=none.attention.memory_s,
            memory_s_per_token=one.attention.memory_s - none.attention.memory_s,
        )


class _Lines(NamedTuple):
    fixed_s: float
    compute_s: float
    compute_s_per_token: float
    memory_s: float
    memory_s_per_token: float


class MockerTimer:
    """The polynomials of Dynamo's mocker, to compare with `dynamo.replay` on one footing.

    Source: ai-dynamo/dynamo, lib/mocker/src/common/perf_model.rs (`PerfModel::Polynomial`): a step
    takes 4.209989e-07 t^2 + 1.518344e-02 t + 16.50142 ms for t new prompt tokens, and besides
    -25.74 u^2 + 54.01 u + 5.74 ms where tokens come out, at a share u of blocks in use.
    """

    def step_s(
        self, prefill: Sequence[tuple[int, int]], decode: Sequence[int], used: float
    ) -> float:
        new = sum(tokens for tokens, _ in prefill)
        seconds = 0.0
        if new:
            seconds += 1e-3 * (4.209989e-07 * new * new + 1.518344e-02 * new + 16.50142)
        if decode:
            seconds += 1e-3 * (-25.74 * used * used + 54.01 * used + 5.74)
        return seconds

    def decode_s(self, sequences: int, context_tokens: int, used: Seconds) -> Seconds:  # noqa: ARG002
        return np.asarray(1e-3 * (-25.74 * used * used + 54.01 * used + 5.74))
