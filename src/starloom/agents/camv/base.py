"""The nouns of conflict-aware meta-verification, and what a domain of questions has to answer.

Experts answer a question in text; a domain reads values, evidence and rules out of it; anchors turn
agreement into probabilities; what stays uncertain is audited; a verdict says all of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked. `options` are texts behind the letters A, B, ..."""

    id: str
    text: str
    topic: str = ""
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Response:
    """What an expert, or the verifier, said. `value` is its answer in the domain's form."""

    author: str
    text: str
    value: str | None


@dataclass(frozen=True, slots=True)
class Pruned:
    """A value that a declared rule of the domain excludes, and why."""

    value: str
    authors: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A value that may be right: who claims it, and how probable that makes it."""

    value: str
    authors: tuple[str, ...]
    probability: float


@dataclass(frozen=True, slots=True)
class Check:
    """One audit: who checked, what for, what came out, and what it cost (in verifier calls)."""

    by: str
    question: str
    found: str
    cost_calls: float


Status = Literal["anchored", "audited", "abstained"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is held to be the answer and everything that it rests on.

    `anchored`: accepted on the experts' agreement alone. `audited`: accepted after a check.
    `abstained`: no value is probable enough; `value` is None and `candidates` say how far it got.
    """

    question: str
    status: Status
    value: str | None
    probability: float
    candidates: tuple[Candidate, ...]
    pruned: tuple[Pruned, ...] = ()
    checks: tuple[Check, ...] = ()
    cost_calls: float = 0.0


class Rule(Protocol):
    """A declared rule over values of a domain."""

    def broken(self, question: Question, value: str) -> str | None:
        """Why the value cannot be an answer, or None when it can."""


class Domain(Protocol):
    """How one kind of question is read. Pure; looks at texts only, never at a label."""

    rules: Sequence[Rule]
    question_names: tuple[str, ...]
    response_names: tuple[str, ...]
    mention_names: tuple[str, ...]

    def question_features(self, question: Question) -> list[float]:
        """What of the question bears on how far to trust agreement; as long as `question_names`."""

    def response_features(
        self, question: Question, response: Response, others: Sequence[Response]
    ) -> list[float]:
        """What of a response bears on its own answer; as long as `response_names`."""

    def mention_features(self, question: Question, response: Response, value: str) -> list[float]:
        """How a response speaks of any value; as long as `mention_names`."""

    def readings(self, response: Response) -> list[str]:
        """Values that the text states as its conclusion, the likeliest first."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A question with its recorded responses and its right answer, for calibration and replay.

    `experts` come in the team's order; `verifier` is what the verifier said when asked the same.
    """

    question: Question
    experts: tuple[Response, ...]
    verifier: Response
    truth: str = field(repr=False)
