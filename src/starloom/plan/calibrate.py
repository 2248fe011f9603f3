"""Fits a profile's physical parameters to measured times, and says how it carries over.

Residuals are log(ours / measured), so that every row weighs by its relative error. A weak pull
towards priors keeps what the rows do not determine. Damped Gauss-Newton; a share lives on the logit
scale below its upper bound, all else on the log scale.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from starloom.plan.errors import BadPlan
from starloom.plan.profiles import MOST_FITTED, Profile

Array = NDArray[np.float64]
Profiles = Mapping[str, Profile]
Predict = Callable[[Profiles], Array]
"""Seconds of all rows under some profiles."""
PULL = 0.15
STEPS = 30
AGAIN = 4
"""Steps from a full fit to the one without a model's rows: they start near their end."""
BOUNDED = {
    "gemm": 0.97,
    "gemm_fp8": 0.97,
    "gemm_fp4": 0.97,
    "grouped": 1.0,
    "attention": 0.9,
    "memory": 0.97,
    "tp_hidden": 1.0,
    "ep_hidden": 1.0,
    "wave": 1.5,
}


@dataclass(frozen=True, slots=True)
class Free:
    """One free parameter: a field that several profiles share, and where it is pulled to."""

    field: str
    profiles: tuple[str, ...]
    prior: float

    def inward(self) -> float:
        most = BOUNDED.get(self.field)
        if most is None:
            return float(np.log(max(self.prior, 1e-9)))
        share = min(max(self.prior / most, 1e-3), 1 - 1e-3)
        return float(np.log(share / (1 - share)))

    def outward(self, at: float) -> float:
        most = BOUNDED.get(self.field)
        if most is None:
            return float(np.exp(at))
        return float(most / (1 + np.exp(-at)))


@dataclass(frozen=True, slots=True)
class Fit:
    """Fitted profiles, and relative errors: of the rows fitted, and of each model left out."""

    profiles: dict[str, Profile]
    errors: Array
    left_out: dict[str, Array]
    """Errors of a model's rows under a fit without them."""

    @property
    def mape_pct(self) -> float:
        return 100 * float(np.mean(np.abs(self.errors)))

    @property
    def left_out_mape_pct(self) -> float:
        return 100 * float(np.mean(np.abs(np.concatenate(list(self.left_out.values())))))


def fit(
    start: Profiles,
    free: Sequence[Free],
    predict: Predict,
    measured_s: Array,
    labels: Sequence[str] = (),
    *,
    pull: float = PULL,
) -> Fit:
    """Fit `free` so that `predict` comes near `measured_s`; `labels` name each row's model.

    Raises `BadPlan` for no rows, times that are none, or more parameters on a profile than
    `MOST_FITTED`.
    """
    if not len(measured_s) or not (np.isfinite(measured_s).all() and measured_s.min() > 0):
        raise BadPlan("nothing to fit to: give rows with times above 0")
    for name in start:
        own = [one.field for one in free if name in one.profiles]
        if len(own) > MOST_FITTED:
            raise BadPlan(f"{len(own)} free parameters on {name}: at most {MOST_FITTED}")
    every = np.ones(len(measured_s), dtype=bool)
    best = _solve(start, free, predict, measured_s, every, pull)
    errors = predict(best) / measured_s - 1
    left_out = {}
    for label in sorted(set(labels)):
        rows = np.array([one == label for one in labels])
        if rows.all():
            continue
        without = _solve(best, free, predict, measured_s, ~rows, pull, AGAIN)
        left_out[label] = (predict(without) / measured_s - 1)[rows]
    return Fit(best, errors, left_out)


def with_values(start: Profiles, free: Sequence[Free], at: Array) -> dict[str, Profile]:
    """Profiles with their free parameters set."""
    changes: dict[str, dict[str, float]] = {name: {} for name in start}
    for one, value in zip(free, at, strict=True):
        for name in one.profiles:
            changes[name][one.field] = one.outward(float(value))
    return {name: start[name].model_copy(update=changes[name]) for name in start}


def _values(profiles: Profiles, free: Sequence[Free]) -> Array:
    """Where the free parameters of fitted profiles stand."""
    return np.array(
        [
            Free(
                one.field, one.profiles, float(getattr(profiles[one.profiles[0]], one.field))
            ).inward()
            for one in free
        ]
    )


def _solve(
    start: Profiles,
    free: Sequence[Free],
    predict: Predict,
    measured_s: Array,
    used: NDArray[np.bool_],
    pull: float,
    steps: int = STEPS,
) -> dict[str, Profile]:
    """From `start`; the pull is to the priors, wherever the start lies."""
    priors = np.array([one.inward() for one in free])
    begin = priors if steps == STEPS else _values(start, free)

    def residuals(at: Array) -> Array:
        errors = np.log(predict(with_values(start, free, at)) / measured_s)[used]
        # Large errors weigh less (Cauchy), so that one odd row does not bend the curve.
        soft = np.sign(errors) * 0.3 * np.sqrt(np.log1p((errors / 0.3) ** 2))
        return np.concatenate([soft, pull * (at - priors)])

    at, damping = begin.copy(), 1e-2
    now = residuals(at)
    for _ in range(steps):
        slope = np.stack([(residuals(at + nudge) - now) / 1e-3 for nudge in 1e-3 * np.eye(len(at))])
        square = slope @ slope.T
        settled = False
        for _ in range(6):
            step = np.linalg.solve(square + damping * np.diag(np.diag(square)), -slope @ now)
            after = residuals(at + np.clip(step, -0.7, 0.7))
            if after @ after < now @ now:
                settled = bool(now @ now - after @ after < 1e-6 * (now @ now))
                at, now, damping = at + np.clip(step, -0.7, 0.7), after, damping / 3
                break
            damping *= 4
        else:
            break
        if settled:
            break
    return with_values(start, free, at)
