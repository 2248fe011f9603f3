"""What a worker would make of a request: seconds to its first token, and between later ones.

Learned from what tickets tell (`Trip`), with a prior of the order of an accelerator, whose ratios
alone matter until there are samples.

- Prefill of x tokens next to n other requests: seconds = c0 + c1 x + c2 n. A worker whose queue
  began at `prefill_since_s` ends ours when it has computed all tokens ahead and ours.
- A decode step over t tokens of n sequences: seconds = d0 + d1 t + d2 n.
- Workers of one model may differ: each has a factor, seen over forecast.
"""

from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from starloom.serve.schedule.base import Ask, Trip, WorkerView
from starloom.serve.schedule.rates import Line, Mean

Column = NDArray[np.float64]

_PREFILL = ([0.01, 2e-5, 0.0], [1.0, 10_000.0, 10.0])
_DECODE = ([0.01, 5e-8, 1e-4], [1.0, 100_000.0, 10.0])
_ANSWER_TOKENS = 200.0
_TTFT_S, _DECODING_S = 0.3, 3.0
_TOKENS_WORTH = 0.6


class Forecast(NamedTuple):
    """One request, on each of some workers."""

    ttft_s: Column
    tpot_s: Column
    cost_s: Column
    """What it costs everybody there (see `Starloom`)."""


class Forecaster:
    """Rates of the workers of one model."""

    def __init__(self) -> None:
        self.prefill = Line(*_PREFILL)
        self.decode = Line(*_DECODE)
        self.ttft_s = Mean(_TTFT_S)
        self.decoding_s = Mean(_DECODING_S)
        """From the first token of an answer to its last."""
        self.answer_tokens = Mean(_ANSWER_TOKENS)
        self.reuse = Mean(0.0)
        """Share of a prompt's tokens that the chosen worker was believed to hold."""
        self._pace: dict[str, _Pace] = {}
        self._factor: dict[str, float] = {}

    def forecast(self, ask: Ask, workers: Sequence[WorkerView]) -> Forecast:
        """What each worker would make of `ask`, if it were sent there now."""
        c0, c1, c2 = self.prefill.coefficients
        d0, d1, d2 = self.decode.coefficients
        held = _column("overlap_blocks", workers) * ask.block_tokens
        others = _column("outstanding", workers)
        prefills = _column("prefills", workers)
        context = _column("context_tokens", workers)
        factor = self._factor.get
        pace = np.array([factor(view.name, 1.0) for view in workers])
        prefill_s = pace * (c0 + c1 * np.maximum(ask.prompt_tokens - held, 1) + c2 * others)
        spent_s = np.maximum(ask.now_s - _column("prefill_since_s", workers), 0)
        ahead_s = pace * c1 * _column("prefill_tokens", workers)
        # What is overdue is expected to take as long again: a worker that hangs must not look idle.
        wait_s = np.where(prefills > 0, np.abs(ahead_s - spent_s), 0)
        ttft_s = wait_s + prefill_s
        tpot_s = pace * (d0 + d1 * (context + ask.prompt_tokens) + d2 * (others + 1))

        mine = d1 * context + d2 * others
        theirs = others * (d1 * ask.prompt_tokens + d2) / 2  # they are halfway, on average
        steps_s = pace * self.answer_tokens.value * (mine + theirs)
        stalls_s = (others - prefills) * prefill_s
        displaced_s = self.reuse.value * prefill_s
        cost_s = ttft_s + displaced_s + self._worth * (stalls_s + steps_s)
        return Forecast(ttft_s, tpot_s, cost_s)

    @property
    def _worth(self) -> float:
        """Of a second between tokens, in seconds before the first."""
        decoding_s = self.decoding_s.value
        return _TOKENS_WORTH * self.ttft_s.value / decoding_s if decoding_s else 0.0

    def learn(self, trip: Trip) -> None:
        """What became of a request: at its first token, and again at its end."""
        if trip.first_s is None:
            return
        if trip.ended_s is None:
            seconds = trip.first_s - trip.since_s
            x = (1.0, float(trip.ahead_tokens + trip.prefill_tokens), float(trip.outstanding))
            self.ttft_s.learn(trip.first_s - trip.begun_s)
            self.reuse.learn(1 - trip.prefill_tokens / max(trip.prompt_tokens, 1))
            pace = self._pace.setdefault(trip.worker, _Pace())
            self._factor[trip.worker] = pace.learn(seconds, self.prefill.predict(x))
            self.prefill.learn(x, seconds)
            return
        self.decoding_s.learn(trip.ended_s - trip.first_s)
        if trip.answer_tokens:
            self.answer_tokens.learn(trip.answer_tokens)
        if trip.answer_tokens > 1:
            context = (trip.context_tokens + trip.context_at_end) / 2
            sequences = 1 + (trip.outstanding + trip.outstanding_at_end) / 2
            gap_s = (trip.ended_s - trip.first_s) / (trip.answer_tokens - 1)
            self.decode.learn((1.0, context, sequences), gap_s)

    def forget(self, worker: str) -> None:
        """Its own pace, but not what it taught of all."""
        self._pace.pop(worker, None)
        self._factor.pop(worker, None)


def _column(name: str, workers: Sequence[WorkerView]) -> Column:
    return np.fromiter(map(attrgetter(name), workers), float, len(workers))


class _Pace:
    """How slow a worker is, next to all: seconds seen over seconds forecast."""

    __slots__ = ("_forecast", "_samples", "_seen")

    def __init__(self) -> None:
        self._seen = Mean(1.0, memory=256, weight=0)
        self._forecast = Mean(1.0, memory=256, weight=0)
        self._samples = 0

    def learn(self, seen_s: float, forecast_s: float) -> float:
        """The factor with one more sample; drawn towards 1 while there are few."""
        self._samples += 1
        self._seen.learn(seen_s)
        self._forecast.learn(forecast_s)
        few = 16 / (16 + self._samples)
        ratio = self._seen.value / self._forecast.value if self._forecast.value > 0 else 1.0
        return few + (1 - few) * ratio
