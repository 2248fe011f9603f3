"""Scores into probabilities: the best non-decreasing function, by pooling violators."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Isotonic:
    """A probability for every score, linear between knots and level outside them."""

    scores: NDArray[np.float64]
    probabilities: NDArray[np.float64]

    def __call__(self, score: float) -> float:
        return float(np.interp(score, self.scores, self.probabilities))

    def many(self, scores: NDArray[np.floating]) -> NDArray[np.float64]:
        return np.asarray(np.interp(scores, self.scores, self.probabilities))


def fit(scores: NDArray[np.floating], outcomes: NDArray[np.floating], pool: int = 50) -> Isotonic:
    """Pool-adjacent-violators (Ayer et al. 1955) over blocks of `pool` rows, ordered by score.

    Blocks keep one lucky row at an end from becoming a certainty; two more rows of the mean outcome
    keep a block from claiming 0 or 1. The scores must be of rows that the model did not learn from:
    on its own training rows every model looks sure.
    """
    if not len(scores):
        raise ValueError("calibration needs at least one row")
    order = np.argsort(scores, kind="stable")
    parts = np.array_split(order, max(1, len(order) // pool))
    levels: list[tuple[float, float, float]] = []  # (sum of outcomes, rows, sum of scores)
    for part in parts:
        levels.append((float(outcomes[part].sum()), float(len(part)), float(scores[part].sum())))
        while len(levels) > 1 and levels[-2][0] * levels[-1][1] >= levels[-1][0] * levels[-2][1]:
            last, before = levels.pop(), levels.pop()
            levels.append((last[0] + before[0], last[1] + before[1], last[2] + before[2]))
    knots = np.array([total / rows for _, rows, total in levels])
    mean = float(outcomes.mean())
    shares = np.array([(right + 2 * mean) / (rows + 2) for right, rows, _ in levels])
    return Isotonic(knots, np.maximum.accumulate(shares))
