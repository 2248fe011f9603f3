"""Reuse learned on line: for a class of blocks and an age, how soon a use is to be expected."""

from bisect import bisect_right
from itertools import pairwise
from math import erf, log, sqrt

EDGES_S = tuple(0.5 * 2 ** (half / 2) for half in range(27))
"""Ages are told apart by half octaves, from 0.5 s to 4096 s."""
BINS = len(EDGES_S) + 1
_WIDTHS_S = (EDGES_S[0], *(b - a for a, b in pairwise(EDGES_S)), EDGES_S[-1])
_BELIEF_MEDIAN_S, _BELIEF_SIGMA = 100.0, 1.2
_BELIEF_RETURN = (0.25, 0.45, 0.55, 0.65, 0.75, 0.8, 0.9)
BELIEF_CLASSES = len(_BELIEF_RETURN)


def age_bin(age_s: float) -> int:
    """The number of the bin that an age is in."""
    return bisect_right(EDGES_S, age_s)


class Counts:
    """Of the blocks of a class: how many came to each age unused, and how many were used at it."""

    __slots__ = ("ranks", "reached", "stamp", "used")

    def __init__(self) -> None:
        self.used = [0.0] * BINS
        self.reached = [0.0] * BINS
        self.ranks: list[float] = []
        self.stamp = -1

    def fade(self, factor: float) -> None:
        """Let what was counted weigh less."""
        self.used = [count * factor for count in self.used]
        self.reached = [count * factor for count in self.reached]

    def hazards(self, prior: list[float], weight: float) -> list[float]:
        """Chance of a use in each bin for who reached it; `prior` counts as `weight` blocks."""
        return [
            min((used + weight * belief) / (reached + weight), 1.0)
            for used, reached, belief in zip(self.used, self.reached, prior, strict=True)
        ]


def beliefs() -> list[list[float]]:
    """Hazards to begin with, by class of uses: log-normal pauses about `_BELIEF_MEDIAN_S`."""
    ends = [0.0, *EDGES_S, float("inf")]
    rows = []
    for returns in _BELIEF_RETURN:
        reached = [returns * _log_normal(end) for end in ends]
        rows.append([(b - a) / (1 - a) for a, b in pairwise(reached)])
    return rows


def _log_normal(age_s: float) -> float:
    if age_s in (0.0, float("inf")):
        return float(age_s > 0)
    return 0.5 * (1 + erf(log(age_s / _BELIEF_MEDIAN_S) / _BELIEF_SIGMA / sqrt(2)))


def gittins(hazards: list[float]) -> list[float]:
    """Rank each bin by the best rate of uses per block-second that any patience h would bring.

        max over h of P(used within h | unused so far) / E[time held, at most h]

    which is Gittins' index of a job that ends with the next use. A block is worth its place while
    this is above what a block-second costs elsewhere, so the lowest one goes first. Source:
    J. Gittins, "Bandit processes and dynamic allocation indices", JRSS B 1979.
    """
    ranks = []
    for first in range(BINS):
        waiting, used, held_s, best = 1.0, 0.0, 0.0, 0.0
        for at in range(first, BINS):
            uses = waiting * hazards[at]
            used += uses
            held_s += _WIDTHS_S[at] * (waiting - uses / 2)
            waiting -= uses
            best = max(best, used / held_s)
        ranks.append(best)
    return ranks


def density(hazards: list[float], horizon_s: float) -> list[float]:
    """Rank of each bin with one patience for all: uses over block-seconds within `horizon_s`."""
    ranks = []
    for first in range(BINS):
        waiting, used, held_s, ahead_s = 1.0, 0.0, 0.0, 0.0
        for at in range(first, BINS):
            uses = waiting * hazards[at]
            used += uses
            held_s += _WIDTHS_S[at] * (waiting - uses / 2)
            waiting -= uses
            ahead_s += _WIDTHS_S[at]
            if ahead_s >= horizon_s:
                break
        ranks.append(used / held_s)
    return ranks
