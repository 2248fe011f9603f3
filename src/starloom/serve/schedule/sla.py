"""Targets first: the cheapest worker that meets them, or no worker now."""

import math
from collections.abc import Sequence

import numpy as np

from starloom.serve.schedule.base import Ask, Decision, Shed, Trip, WorkerView
from starloom.serve.schedule.forecast import Forecaster

_HEADROOM = 0.8
"""A level of priority below the urgent ones may fill this share of what the level above may."""
_MAY_MISS = 0.02
_PATIENT_S = 0.1
_WIDEST = 4.0
_DOUBT_S = 30.0
"""While requests are refused, what a margin is wider than 1 falls to 1/e in this time."""


class Sla:
    """Sends a request where its first token and the time between later ones keep to target.

    Of workers forecast to meet both targets the one takes it that our own policy would choose.
    Where there is none the request is shed at once, and told when the queue will have gone down
    enough: early refusals leave those who were admitted in target, where a queue would break all.

    Targets are the request's, else the policy's. Forecasts are stretched by a margin each, which a
    missed target widens and a kept one narrows, so that 2 % of those admitted miss (the online form
    of conformal prediction: Gibbs and Candes, arXiv 2106.00170). Less urgent requests (priority
    above 0) have to leave headroom, so they are shed first; negative priorities are never shed, and
    go where the first token comes soonest.
    """

    def __init__(self, ttft_target_s: float = 2.0, tpot_target_s: float = 0.1) -> None:
        self._ttft_target_s = ttft_target_s
        self._tpot_target_s = tpot_target_s
        self._forecaster = Forecaster()
        self._ttft = _Margin()
        self._tpot = _Margin()

    def choose(self, ask: Ask, workers: Sequence[WorkerView]) -> Decision | Shed:
        ttft_s = self._ttft_target_s if ask.ttft_target_s is None else ask.ttft_target_s
        tpot_s = self._tpot_target_s if ask.tpot_target_s is None else ask.tpot_target_s
        share = _HEADROOM ** max(ask.priority, 0)
        late, slow = self._ttft.factor, self._tpot.factor
        forecast = self._forecaster.forecast(ask, workers)
        within = (late * forecast.ttft_s <= share * ttft_s) & (
            slow * forecast.tpot_s <= share * tpot_s
        )
        if within.any():
            at = int(np.where(within, forecast.cost_s, np.inf).argmin())
            return Decision(workers[at].name, f"{int(within.sum())} of {len(workers)} in target")
        at = int(forecast.ttft_s.argmin())
        best_s = float(forecast.ttft_s[at])
        idle = not any(view.outstanding for view in workers)
        if ask.priority < 0 or idle:  # never shed; or no other time would be better
            why = f"none in target, first token in {best_s:.2f} s"
            return Decision(workers[at].name, why, promised=False)
        over_s = late * best_s - share * ttft_s
        if over_s <= 0:  # it is decoding that is too slow: until an answer or so has ended
            over_s = self._forecaster.decoding_s.value / max(workers[at].outstanding, 1)
        self._ttft.relax(ask.now_s)
        self._tpot.relax(ask.now_s)
        return Shed(
            retry_after_s=max(over_s, _PATIENT_S),
            why=f"overloaded: first token in {best_s:.2f} s at best, {ttft_s:g} s wanted",
        )

    def forget(self, worker: str) -> None:
        self._forecaster.forget(worker)

    def learn(self, trip: Trip) -> None:
        self._forecaster.learn(trip)
        if not trip.promised:
            return  # nobody said that it would keep to target: it tells nothing of the margins
        ttft_s = trip.ttft_target_s or self._ttft_target_s
        tpot_s = trip.tpot_target_s or self._tpot_target_s
        if trip.first_s is not None and trip.ended_s is None:
            self._ttft.learn(trip.first_s, missed=trip.first_s - trip.begun_s > ttft_s)
        elif trip.first_s is not None and trip.ended_s is not None and trip.answer_tokens > 1:
            gaps = trip.answer_tokens - 1
            self._tpot.learn(trip.ended_s, missed=trip.ended_s - trip.first_s > tpot_s * gaps)


class _Margin:
    """What a forecast is multiplied by, so that targets are missed as seldom as they may be."""

    def __init__(self) -> None:
        self.factor = 1.0
        self._told_s = 0.0

    def learn(self, now_s: float, *, missed: bool) -> None:
        """What became of a request that was promised to keep to target."""
        self._told_s = now_s
        step = 0.05 * ((1 - _MAY_MISS) if missed else -_MAY_MISS)
        self.factor = min(max(self.factor + step, 1.0), _WIDEST)

    def relax(self, now_s: float) -> None:
        """A request was refused, which teaches nothing: doubt whether the margin is still true.

        Without doubt a margin that once grew wide would refuse all, and so never learn better. It
        grows with the time that nothing was learned in, not with refusals, of which there are many.
        """
        keep = math.exp(-max(now_s - self._told_s, 0.0) / _DOUBT_S)
        self._told_s = now_s
        self.factor = 1.0 + keep * (self.factor - 1.0)
