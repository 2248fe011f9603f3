"""What labelled examples allow to promise: exact bounds; thresholds that survive being chosen.

Clopper and Pearson (Biometrika 1934) for a rate; learn then test (Angelopoulos et al., arXiv
2110.01052) for a threshold picked from a grid: walking from strict to loose, each one is tested at
full level until the first failure (fixed sequence testing), from several starts that share the
level (Bonferroni). The examples must be exchangeable with what comes, and must not have been
learned from.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from starloom.agents.camv.base import Bools, Floats, Ints

LEVEL = 0.05
STARTS = 3


def binomial_tail(errors: int, n: int, rate: float) -> float:
    """P(X <= errors) for X binomial(n, rate): the p-value of "the rate is at least `rate`"."""
    if rate <= 0 or errors >= n:
        return 1.0
    if rate >= 1:
        return 0.0
    k = np.arange(errors + 1)
    logs = np.array([_log_choose(n, int(i)) for i in k])
    logs = logs + k * math.log(rate) + (n - k) * math.log1p(-rate)
    top = logs.max()
    return float(min(1.0, math.exp(top) * np.exp(logs - top).sum()))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def upper_bound(errors: int, n: int, level: float = LEVEL) -> float:
    """The Clopper-Pearson bound: with confidence 1 - level, the rate is at most this."""
    if n == 0 or errors >= n:
        return 1.0
    return _bisect(lambda rate: binomial_tail(errors, n, rate) > level)


def lower_bound(errors: int, n: int, level: float = LEVEL) -> float:
    """With confidence 1 - level, the rate is at least this."""
    return 1.0 - upper_bound(n - errors, n, level)


def interval(successes: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """The exact two-sided interval of a rate."""
    return lower_bound(successes, n, level / 2), upper_bound(successes, n, level / 2)


def _bisect(below: Callable[[float], bool]) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return high


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Accept what scores at least `threshold`; None where no threshold can be certified.

    `bound` is the Clopper-Pearson upper bound of the wrong among accepted, as if this threshold
    alone had been looked at; `coverage` is the share of the certifying examples that it accepts.
    """

    risk: float
    threshold: float | None
    coverage: float
    bound: float
    accepted: int
    wrong: int


def certify(
    score: Floats, right: Bools, risk: float, level: float = LEVEL, starts: int = STARTS
) -> Acceptance:
    """The loosest threshold with, at confidence 1 - level, at most `risk` of accepted wrong.

    `score`, `right`: (n,) of examples that were not learned from. Ties in the score are accepted or
    refused together.
    """
    order = np.argsort(-score, kind="stable")
    wrong = np.cumsum(~right[order])
    ends = _ends(score[order])
    floor = math.ceil(math.log(level / starts) / math.log1p(-risk)) if 0 < risk < 1 else 1
    best = -1
    usable = ends[ends + 1 >= floor]
    for first in (usable[at * len(usable) // starts] for at in range(starts) if len(usable)):
        for end in usable[usable >= first]:
            if binomial_tail(int(wrong[end]), int(end) + 1, risk) > level / starts:
                break
            best = max(best, int(end))
    if best < 0:
        return Acceptance(risk, None, 0.0, 1.0, 0, 0)
    n, failed = best + 1, int(wrong[best])
    return Acceptance(
        risk, float(score[order[best]]), n / len(score), upper_bound(failed, n, level), n, failed
    )


def _ends(descending: Floats) -> Ints:
    """The last index of each run of equal scores, at most 200 of them spread over the examples."""
    if not len(descending):
        return np.zeros(0, dtype=np.int64)
    ends: Ints = np.flatnonzero(np.append(np.diff(descending) != 0, True))
    if len(ends) > 200:
        ends = ends[np.unique(np.linspace(0, len(ends) - 1, 200).astype(np.int64))]
    return ends


def paired_bound(
    a: Bools, b: Bools, seed: int = 0, rounds: int = 2000, level: float = LEVEL
) -> tuple[float, float]:
    """Interval of mean(a) - mean(b) on the same questions, by bootstrap over questions."""
    difference = a.astype(np.int64) - b.astype(np.int64)
    counts = np.array([(difference == it).sum() for it in (-1, 0, 1)])
    drawn = np.random.default_rng(seed).multinomial(len(a), counts / len(a), size=rounds)
    means = (drawn[:, 2] - drawn[:, 0]) / len(a)
    low, high = np.quantile(means, [level / 2, 1 - level / 2])
    return float(low), float(high)


def reachable(acceptances: Sequence[Acceptance]) -> float | None:
    """The smallest stated risk that could be certified, or None."""
    return min((it.risk for it in acceptances if it.threshold is not None), default=None)
