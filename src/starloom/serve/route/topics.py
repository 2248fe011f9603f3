"""Which topic a text is of: naive Bayes over its n-grams, learned from the names of outcome files.

A router at run time seldom gets a subject, so that the subject is guessed from the text. What a row
of the training set shows of its topic is guessed without that row: else training would see surer
guesses than running does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from starloom.serve.route.dense import Matrix
from starloom.serve.route.ridge import Mask, folds_of
from starloom.serve.route.rows import Rows

_SMOOTHING_MASS = 6000.0
"""A topic's shares are those of all topics, until it has this much weight of its own."""
_SHARPNESS = 1.0
_KEPT = 1 << 15
"""Buckets that say most of the topics; the others are not stored."""


@dataclass(frozen=True, slots=True)
class Topics:
    """How much each bucket speaks for each topic: `evidence[place[bucket], topic]`."""

    names: tuple[str, ...]
    place: NDArray[np.int32]
    """The row of each bucket; the last row, of zeros, is that of buckets which tell nothing."""
    evidence: NDArray[np.float32]

    def guess(self, rows: Rows) -> Matrix:
        """The probability of each topic for each row of unit length, shape (rows, topics).

        Naive Bayes takes each n-gram as new evidence, which n-grams of one text are not: rows have
        unit length, and one sharpness for all keeps long texts from always being certain.
        """
        logits = np.empty((len(rows), len(self.names)))
        if not self.names:
            return logits
        places = self.place[rows.indices]
        for at in range(len(rows)):
            span = slice(rows.starts[at], rows.starts[at + 1])
            logits[at] = rows.values[span] @ self.evidence[places[span]]
        odds = np.exp(_SHARPNESS * (logits - logits.max(axis=1, keepdims=True)))
        return np.asarray(odds / odds.sum(axis=1, keepdims=True))

    def known(self, topic: str) -> Matrix | None:
        """Certainty of a named topic, or None for a name that was not learned."""
        if topic not in self.names:
            return None
        return np.eye(len(self.names))[[self.names.index(topic)]]


def learn(rows: Rows, labels: NDArray[np.int64], names: Sequence[str], mask: Mask) -> Topics:
    """Shares of each bucket's weight by topic, smoothed towards the share over all topics."""
    owners = rows.owners
    chosen = mask[owners]
    cells = rows.indices[chosen] * np.int64(len(names)) + labels[owners[chosen]]
    size = rows.columns * len(names)
    weight = np.bincount(cells, weights=rows.values[chosen], minlength=size)
    weight = weight.reshape(rows.columns, len(names))
    overall = weight.sum(axis=1, keepdims=True)
    overall /= overall.sum()
    share = (weight + _SMOOTHING_MASS * overall) / (weight.sum(axis=0) + _SMOOTHING_MASS)
    with np.errstate(divide="ignore", invalid="ignore"):
        evidence = np.where(overall > 0, np.log(share / overall), 0.0)
    telling = (weight * evidence).sum(axis=1)
    kept = np.sort(np.argsort(-telling, kind="stable")[: min(_KEPT, rows.columns)])
    place = np.full(rows.columns, len(kept), dtype=np.int32)
    place[kept] = np.arange(len(kept))
    stored = np.concatenate([evidence[kept], np.zeros((1, len(names)))])
    return Topics(tuple(names), place, stored.astype(np.float16).astype(np.float32))


def guess_left_out(
    rows: Rows, labels: NDArray[np.int64], names: Sequence[str], seed: int, folds: int = 5
) -> Matrix:
    """Each row's topic probabilities by `Topics` that did not learn from it."""
    fold = folds_of(len(rows), folds, seed)
    guesses = np.zeros((len(rows), len(names)))
    for left_out in range(folds):
        here = fold == left_out
        guesses[here] = learn(rows, labels, names, ~here).guess(rows.where(here))
    return guesses
