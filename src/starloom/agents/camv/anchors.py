"""Consensus anchors: from who agrees with whom to the probability that each value is right.

A conditional logit (McFadden 1974) over the distinct values that were claimed and "none of them":
the utility of a value is linear in what its supporters' responses show, in which of them agree, and
in what kind of question it is. So agreement is evidence with a learned weight and no vote: two
experts that tend to err together count for less, and a lone one whose reasoning holds for more.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from starloom.agents.camv.base import Bools, Domain, Floats, Ints, Pruned, Question, Response
from starloom.agents.camv.rules import broken
from starloom.agents.errors import CalibrationError

RIDGE_PER_QUESTION = 0.08
"""Strength of the prior on standardised weights; from a coarse grid over calibration parts."""
MIN_QUESTIONS = 50
_STEPS = 30


@dataclass(frozen=True, slots=True)
class Claims:
    """A question's distinct values, with their authors and one row of evidence each."""

    values: tuple[str, ...]
    authors: tuple[tuple[str, ...], ...]
    rows: Floats
    """(values, features)"""
    pruned: tuple[Pruned, ...] = ()


def claims(
    domain: Domain,
    question: Question,
    responses: Sequence[Response | None],
    *,
    read: Response | None = None,
) -> Claims:
    """The values claimed by `responses` (a fixed order of authors; None: not asked), with evidence.

    `read` is a response whose text is searched for further values that it states.
    """
    order: dict[str, None] = {}
    for response in responses:
        if response is not None and response.value is not None:
            order[response.value] = None
    if read is not None:
        order |= dict.fromkeys(domain.readings(read))
    values, authors, pruned = [], [], []
    for value in order:
        claimed_by = tuple(it.author for it in responses if it is not None and it.value == value)
        reason = broken(domain.rules, question, value)
        if reason is None:
            values.append(value)
            authors.append(claimed_by)
        else:
            pruned.append(Pruned(value, claimed_by, reason))
    rows = _rows(domain, question, responses, values)
    return Claims(tuple(values), tuple(authors), rows, tuple(pruned))


def _rows(
    domain: Domain, question: Question, responses: Sequence[Response | None], values: list[str]
) -> Floats:
    """Per author what it shows of a value that it supports, and mentions; then agreements."""
    asked = [1.0, *domain.question_features(question)]
    shown = len(domain.response_names)
    mention = len(domain.mention_names)
    supports = np.zeros((len(responses), len(values)))
    parts: list[Floats] = []
    for at, response in enumerate(responses):
        block = np.zeros((len(values), len(asked) + shown + mention))
        if response is not None:
            others = [it for it in responses if it is not None and it is not response]
            own = [*asked, *domain.response_features(question, response, others)]
            for row, value in enumerate(values):
                if response.value == value:
                    supports[at, row] = 1.0
                    block[row, : len(own)] = own
                block[row, len(own) :] = domain.mention_features(question, response, value)
        parts.append(block)
    for a in range(len(responses)):
        parts.extend((supports[a] * supports[b])[:, None] * asked for b in range(a))
    if len(responses) > 2:
        parts.append((supports.sum(axis=0) > 2)[:, None] * np.array(asked))
    return np.concatenate(parts, axis=1)


@dataclass(frozen=True, slots=True)
class Table:
    """Claims of many questions, padded: `rows` is (questions, values, features)."""

    values: tuple[tuple[str, ...], ...]
    rows: Floats
    present: Bools

    def __len__(self) -> int:
        return len(self.values)

    def right(self, truths: Sequence[str]) -> Bools:
        """(questions, values): which value is the right one."""
        out = np.zeros(self.present.shape, dtype=bool)
        for at, (values, truth) in enumerate(zip(self.values, truths, strict=True)):
            for column, value in enumerate(values):
                out[at, column] = value == truth
        return out

    def take(self, at: Ints) -> "Table":
        return Table(tuple(self.values[i] for i in at), self.rows[at], self.present[at])


def table(many: Sequence[Claims]) -> Table:
    """Stack the claims of many questions of one domain and one team."""
    if not many:
        raise CalibrationError("no questions: give some responses with their right answers")
    width = max(1, *(len(it.values) for it in many)) if len(many) > 1 else len(many[0].values) or 1
    features = many[0].rows.shape[1]
    rows = np.zeros((len(many), width, features))
    present = np.zeros((len(many), width), dtype=bool)
    for at, it in enumerate(many):
        if it.rows.shape[1] != features:
            raise CalibrationError(
                f"claims with {it.rows.shape[1]} features among claims with {features}: "
                "calibrate one domain and one team at a time"
            )
        rows[at, : len(it.values)] = it.rows
        present[at, : len(it.values)] = True
    return Table(tuple(it.values for it in many), rows, present)


@dataclass(frozen=True, slots=True)
class Anchors:
    """Learned weights of evidence. Probabilities of a question's values add up to at most one."""

    weights: Floats = field(repr=False)

    @classmethod
    def learn(
        cls, claimed: Table, truths: Sequence[str], ridge_per_question: float = RIDGE_PER_QUESTION
    ) -> "Anchors":
        """Maximum a posteriori, by Newton; raises CalibrationError for too few questions."""
        if len(claimed) < MIN_QUESTIONS:
            raise CalibrationError(
                f"{len(claimed)} labelled questions: anchors need at least {MIN_QUESTIONS}"
            )
        seen = claimed.rows[claimed.present]
        scale = np.sqrt((seen**2).mean(axis=0))
        used = scale > 0
        scale = np.where(used, scale, 1.0)
        rows = claimed.rows / scale
        ridge = ridge_per_question * len(claimed)
        weights = _newton(rows[:, :, used], claimed.present, claimed.right(truths), ridge)
        full = np.zeros(len(scale))
        full[used] = weights
        return cls(full / scale)

    def probabilities(self, claimed: Table) -> Floats:
        """(questions, values); what is missing to one is "none of them". Absent values have 0."""
        return _softmax(claimed.rows @ self.weights, claimed.present)


def _newton(rows: Floats, present: Bools, right: Bools, ridge: float) -> Floats:
    weights = np.zeros(rows.shape[2])
    target = right & present
    prior = ridge * np.eye(len(weights))
    for _ in range(_STEPS):
        p = _softmax(rows @ weights, present)
        gradient = np.einsum("nc,ncd->d", p - target, rows) + ridge * weights
        mean = np.einsum("nc,ncd->nd", p, rows)
        flat = (rows * np.sqrt(p)[:, :, None]).reshape(-1, rows.shape[2])
        step = np.linalg.solve(flat.T @ flat - mean.T @ mean + prior, gradient)
        weights -= step
        if np.abs(step).max() < 1e-4:
            break
    return weights


def _softmax(utility: Floats, present: Bools) -> Floats:
    """Over the values and an outside option of utility 0."""
    shown = np.where(present, utility, -np.inf)
    top = np.maximum(shown.max(axis=1, initial=0.0), 0.0)
    e = np.exp(shown - top[:, None])
    out: Floats = e / (e.sum(axis=1) + np.exp(-top))[:, None]
    return out
