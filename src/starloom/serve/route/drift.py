"""Whether the requests still look like those that the router learned from.

Two distances between the scores of the last `window` requests and those of the training's held-out
folds: PSI (population stability index, sum of (p - q) ln(p / q) over deciles), Kolmogorov-Smirnov.
The usual reading of PSI: below .1 nothing changed, from .25 on the model should be trained anew
(Siddiqi, Credit Risk Scorecards, 2006).
"""

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

State = Literal["waiting", "steady", "shifting", "drifted"]

_DECILES = 10
_LEAST = 200


class DriftReport(msgspec.Struct, frozen=True):
    state: State
    psi: float
    ks: float
    """Largest distance of the two distribution functions, 0..1."""
    requests: int
    """Scores in the window; below 200 the state is `waiting`."""


class DriftWatch:
    """A ring of the last scores. Bounded memory; a score costs one write."""

    def __init__(self, reference: NDArray[np.floating], window: int = 2000) -> None:
        """`reference`: scores of the training's held-out folds, ascending."""
        if window < _LEAST:
            raise ValueError(f"a window of {window} scores is below {_LEAST}: it would see noise")
        self._reference = np.asarray(reference, dtype=np.float64)
        self._edges = np.unique(np.quantile(self._reference, np.linspace(0, 1, _DECILES + 1)[1:-1]))
        self._ring = np.zeros(window)
        self._seen = 0

    def note(self, score: float) -> None:
        self._ring[self._seen % len(self._ring)] = score
        self._seen += 1

    @property
    def recent(self) -> NDArray[np.float64]:
        """The scores in the window, in no order."""
        return np.asarray(self._ring[: min(self._seen, len(self._ring))])

    def report(self) -> DriftReport:
        recent = self.recent
        if len(recent) < _LEAST:
            return DriftReport("waiting", 0.0, 0.0, len(recent))
        psi, ks = self._psi(recent), self._ks(recent)
        state: State = "steady" if psi < 0.1 else "shifting" if psi < 0.25 else "drifted"
        return DriftReport(state, psi, ks, len(recent))

    def _psi(self, recent: NDArray[np.float64]) -> float:
        bins = len(self._edges) + 1

        def shares(scores: NDArray[np.float64]) -> NDArray[np.float64]:
            places = np.searchsorted(self._edges, scores, side="right")
            counts = np.bincount(places, minlength=bins).astype(np.float64)
            return np.asarray((counts + 0.5) / (len(scores) + 0.5 * bins))

        now, then = shares(recent), shares(self._reference)
        return float(((now - then) * np.log(now / then)).sum())

    def _ks(self, recent: NDArray[np.float64]) -> float:
        both = np.concatenate([recent, self._reference])
        now = np.searchsorted(np.sort(recent), both, side="right") / len(recent)
        then = np.searchsorted(self._reference, both, side="right") / len(self._reference)
        return float(np.abs(now - then).max())
