"""Calibration and replay over recorded responses: what a policy would have cost and got right."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from starloom.agents.camv.anchors import Anchors, Table, claims, table
from starloom.agents.camv.base import Bools, Domain, Floats, Ints, Labelled
from starloom.agents.camv.engine import MetaVerifier, Policy
from starloom.agents.camv.risk import paired_bound

FOLDS = 5


@dataclass(frozen=True, slots=True)
class Recorded:
    """Evidence of many labelled questions, before and after each one's audit."""

    alone: Table
    joined: Table
    truths: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.truths)

    def take(self, at: Ints) -> "Recorded":
        truths = tuple(self.truths[i] for i in at)
        return Recorded(self.alone.take(at), self.joined.take(at), truths)


def read(domain: Domain, many: Sequence[Labelled]) -> Recorded:
    """Read all responses once; labels are kept apart from evidence."""
    alone, joined = [], []
    for it in many:  # together, so that a text is taken apart once
        alone.append(claims(domain, it.question, it.experts))
        everyone = (*it.experts, it.verifier)
        joined.append(claims(domain, it.question, everyone, read=it.verifier))
    return Recorded(table(alone), table(joined), tuple(it.truth for it in many))


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Per question: the best value's probability and whether it is right, by itself and audited."""

    alone: Floats
    alone_right: Bools
    joined: Floats
    joined_right: Bools

    def __len__(self) -> int:
        return len(self.alone)

    def audited(self, below: float) -> Bools:
        return self.alone < below

    def final(self, audited: Bools) -> tuple[Floats, Bools]:
        """(probability, right) of what is concluded if these are audited."""
        return (
            np.where(audited, self.joined, self.alone),
            np.where(audited, self.joined_right, self.alone_right),
        )

    def curve(self) -> Floats:
        """(n + 1,) share right with the 0..n least certain questions audited."""
        order = np.argsort(self.alone, kind="stable")
        change = self.joined_right[order].astype(np.int64) - self.alone_right[order]
        gained = np.concatenate([[0], np.cumsum(change)])
        out: Floats = (self.alone_right.sum() + gained) / max(len(self), 1)
        return out


@dataclass(frozen=True, slots=True)
class Weighing:
    """Both calibrated anchors of a team."""

    alone: Anchors
    joined: Anchors

    @classmethod
    def learn(cls, recorded: Recorded) -> "Weighing":
        return cls(
            Anchors.learn(recorded.alone, recorded.truths),
            Anchors.learn(recorded.joined, recorded.truths),
        )

    def outcomes(self, recorded: Recorded) -> Outcomes:
        alone, alone_right = _best(self.alone, recorded.alone, recorded.truths)
        joined, joined_right = _best(self.joined, recorded.joined, recorded.truths)
        return Outcomes(alone, alone_right, joined, joined_right)

    def verifier(
        self, domain: Domain, team: Sequence[str], verifier: str, policy: Policy
    ) -> MetaVerifier:
        return MetaVerifier(domain, team, verifier, self.alone, self.joined, policy)


def held_out(recorded: Recorded, seed: int = 0, folds: int = FOLDS) -> Outcomes:
    """Outcomes of each question by anchors that were learned without it (cross-fitting)."""
    fold = np.random.default_rng(seed).permutation(len(recorded)) % folds
    parts = Outcomes(*(np.zeros(len(recorded), dtype=it) for it in (float, bool, float, bool)))
    for it in range(folds):
        out = np.flatnonzero(fold == it)
        weighed = Weighing.learn(recorded.take(np.flatnonzero(fold != it)))
        done = weighed.outcomes(recorded.take(out))
        parts.alone[out], parts.alone_right[out] = done.alone, done.alone_right
        parts.joined[out], parts.joined_right[out] = done.joined, done.joined_right
    return parts


def budget_threshold(outcomes: Outcomes, share: float) -> float:
    """`Policy.audit_below` that audits at most this share of such questions."""
    if share >= 1:
        return 2.0
    return float(np.quantile(outcomes.alone, max(share, 0.0), method="lower"))


def fewest_calls(
    outcomes: Outcomes, reference: Bools, margin: float, seed: int = 0, grid: int = 100
) -> float | None:
    """The smallest share of audits whose accuracy is not inferior to `reference` by `margin`.

    Bootstrap over questions, 97.5 % one-sided; None where none is. Choose it on calibration data.
    """
    order = np.argsort(outcomes.alone, kind="stable")
    for step in range(grid + 1):
        audited = np.zeros(len(outcomes), dtype=bool)
        audited[order[: round(len(order) * step / grid)]] = True
        if paired_bound(outcomes.final(audited)[1], reference, seed)[0] >= -margin:
            return step / grid
    return None


def _best(anchors: Anchors, claimed: Table, truths: Sequence[str]) -> tuple[Floats, Bools]:
    p = anchors.probabilities(claimed)
    at = p.argmax(axis=1)
    row = np.arange(len(p))
    return p[row, at], claimed.right(truths)[row, at]
