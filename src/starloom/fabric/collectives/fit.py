"""Fits one parameter set per link generation, and says how it carries over.

Residuals are log(ours / theirs), so that every row weighs by its relative error whatever its size.
A weak pull towards the published constants (NCCL's tuner, nccl-tests' maintainers) keeps what the
data do not determine: it is all that is left of a parameter when the one system that shows it is
left out. Solved by damped Gauss-Newton on the logarithms of the parameters: a dozen of them, some
sixty rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from starloom.fabric.collectives.base import Array
from starloom.fabric.collectives.reference import Measured
from starloom.site.links import LinkGeneration

Generations = Mapping[str, LinkGeneration]


@dataclass(frozen=True, slots=True)
class Free:
    """One free parameter: a field that several generations share, and its published value."""

    field: str
    generations: tuple[str, ...]
    prior: float


FREE = (
    Free("effective_gb_per_s", ("nvlink4",), 20.6),
    Free("effective_gb_per_s", ("ib400",), 47.0),
    Free("in_network_efficiency", ("nvlink4",), 0.85),
    Free("in_network_efficiency", ("nvlink5",), 0.74),
    Free("ramp_launch_us", ("nvlink3", "nvlink4"), 60.0),
    Free("ramp_launch_us", ("nvlink5",), 60.0),
    Free("ramp_step_us", ("nvlink3", "nvlink4", "nvlink5"), 1.9),
    Free("ramp_half_mib", ("nvlink3", "nvlink4", "nvlink5"), 64.0),
    Free("rails", ("nvlink5",), 18.0),
    Free("all_to_all_efficiency", ("nvlink3", "nvlink4", "nvlink5"), 0.85),
    Free("all_to_all_efficiency", ("ib200", "ib400"), 0.95),
    Free("all_to_all_us", ("nvlink3", "nvlink4", "nvlink5", "ib200", "ib400"), 36.0),
)
"""Priors: NCCL's topo.h and tuning.cc @5067397; 18 rails are an NVL72's trays; the ramp's launch
and half size, and both numbers of the all-to-all, have no published value and are our guesses."""
PULL = 0.02
MOST = {"in_network_efficiency": 1.0, "all_to_all_efficiency": 1.0}
STEPS = 25


def with_values(generations: Generations, values: Sequence[float]) -> dict[str, LinkGeneration]:
    """The generations with the free parameters set, in the order of `FREE`."""
    changed = dict(generations)
    for free, value in zip(FREE, values, strict=True):
        bounded = min(float(value), MOST.get(free.field, np.inf))
        for name in free.generations:
            changed[name] = changed[name].model_copy(update={free.field: bounded})
    return changed


def fit(rows: Sequence[Measured], generations: Generations) -> dict[str, LinkGeneration]:
    """Generations whose free parameters fit the `rows` that may be fitted."""
    used = [row for row in rows if row.fitted]
    priors = np.log([free.prior for free in FREE])

    def residuals(at: Array) -> Array:
        tried = with_values(generations, np.exp(at).tolist())
        errors = [np.log(row.time_of(tried) / row.time_us) for row in used]
        return np.concatenate([errors, PULL * (at - priors)])

    at, damping = priors.copy(), 1e-3
    now = residuals(at)
    for _ in range(STEPS):
        slope = np.stack([(residuals(at + nudge) - now) / 1e-4 for nudge in 1e-4 * np.eye(len(at))])
        square = slope @ slope.T
        step = np.linalg.solve(square + damping * np.diag(np.diag(square)), -slope @ now)
        step = np.clip(step, -1.0, 1.0)
        after = residuals(at + step)
        if after @ after < now @ now:
            settled = now @ now - after @ after < 1e-9
            at, now, damping = at + step, after, damping / 3
            if settled:
                break
        else:
            damping *= 4
            if damping > 1e6:
                break
    return with_values(generations, np.exp(at).tolist())


def leave_one_out(
    rows: Sequence[Measured], generations: Generations
) -> dict[str, list[tuple[Measured, float]]]:
    """Per system: its rows with the error in percent of a fit that did not see that system."""
    systems = sorted({row.system for row in rows if row.fitted})
    told = {}
    for system in systems:
        seen = fit([row for row in rows if row.system != system], generations)
        told[system] = [(row, row.error_pct(seen)) for row in rows if row.system == system]
    return told
