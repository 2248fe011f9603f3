"""What workers' speed is seen to be: small regressions over requests that went there.

All models of a pool are linear with few coefficients, and memory is bounded: sums that fade.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


class Line:
    """y = coefficients . x with coefficients >= 0, fitted online by least squares.

    Old samples fade: each new one takes 1/`memory` of the weight. `prior` is what is believed at
    first; it weighs as much as `prior_samples` samples at x = `scale`, and less with each that
    comes.
    """

    def __init__(
        self,
        prior: Sequence[float],
        scale: Sequence[float],
        *,
        prior_samples: float = 4.0,
        memory: int = 512,
    ) -> None:
        self._keep = 1 - 1 / memory
        self._scale = np.asarray(scale, dtype=float)
        self._prior = np.asarray(prior, dtype=float) * self._scale
        self._weight = prior_samples / len(prior)
        self._xx = np.zeros((len(prior), len(prior)))
        self._xy = np.zeros(len(prior))
        self._fitted: list[float] | None = None
        self._stale = 0
        self.samples = 0
        self._off = 0.0
        self._of = 0.0

    @property
    def coefficients(self) -> list[float]:
        """Solved anew when asked for after enough samples: a quarter of all, at most 16."""
        if self._fitted is None or self._stale > min(self.samples // 4, 15):
            self._fitted = (self._solve() / self._scale).tolist()
            self._stale = 0
        return self._fitted

    @property
    def error_pct(self) -> float:
        """Mean absolute error of predictions made before their samples came, fading alike."""
        return 100 * self._off / self._of if self._of else math.nan

    def predict(self, x: Sequence[float]) -> float:
        return sum(c * v for c, v in zip(self.coefficients, x, strict=True))

    def learn(self, x: Sequence[float], y: float) -> None:
        """One sample. Ones that are not finite, or not positive, are passed over."""
        if not (math.isfinite(y) and y > 0 and all(map(math.isfinite, x))):
            return
        guess = self.predict(x)
        self._off = self._keep * self._off + abs(guess - y)
        self._of = self._keep * self._of + y
        row = np.asarray(x, dtype=float) / self._scale
        self._xx = self._keep * self._xx + np.outer(row, row)
        self._xy = self._keep * self._xy + row * y
        self.samples += 1
        self._stale += 1

    def _solve(self) -> Vector:
        """Non-negative least squares by dropping what comes out negative, worst first."""
        size = len(self._prior)
        weight = self._weight / (1 + self.samples)
        a = self._xx + weight * np.eye(size)
        b = self._xy + weight * self._prior
        left = list(range(size))
        while left:
            part = np.linalg.solve(a[np.ix_(left, left)], b[left])
            worst = int(np.argmin(part))
            if part[worst] >= 0:
                solved = np.zeros(size)
                solved[left] = part
                return solved
            del left[worst]
        return np.zeros(size)


class Mean:
    """A mean in which old values fade. It begins as `first`, which weighs as `weight` values."""

    def __init__(self, first: float, *, memory: int = 512, weight: int = 1) -> None:
        self.value = first
        self._memory = memory
        self._count = weight

    def learn(self, value: float) -> None:
        self._count = min(self._count + 1, self._memory)
        self.value += (value - self.value) / self._count
