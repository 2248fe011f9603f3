"""Where chains of reasoning part: the smallest set of claims that an audit has to look at.

Every equation of a chain is a claim "this value follows from those". A value is anchored when the
question gives it or when several experts derive it. The audit need not look at anchored claims, nor
at what only follows from a wrong one: it looks at the claims that have anchored inputs and a value
that nobody else derived. Those are the roots of the disagreement; falsify one and all that hangs on
it falls.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from starloom.agents.camv.base import Question, Response
from starloom.agents.camv.calculator import Step, numbers, steps

ALWAYS = frozenset(Fraction(it) for it in (1, 2, 7, 10, 12, 24, 30, 52, 60, 100, 365, 1000))
"""Constants of the world that texts use without deriving them: halves, weeks, dozens, per cents."""


@dataclass(frozen=True, slots=True)
class StepClaim:
    """One step of an author's chain; `support` authors derive the same value."""

    author: str
    at: int
    step: Step
    support: int
    root: bool
    """Its inputs are anchored and its value is not: a disagreement starts here."""


def step_claims(question: Question, responses: Sequence[Response]) -> list[StepClaim]:
    """All steps of all chains, with their support and whether a disagreement starts there."""
    chains = {it.author: steps(it.text) for it in responses}
    derived = {author: {it.stated for it in chain} for author, chain in chains.items()}
    support: dict[Fraction, int] = {}
    for values in derived.values():
        for value in values:
            support[value] = support.get(value, 0) + 1
    anchored = set(numbers(question.text)) | ALWAYS | {v for v, n in support.items() if n > 1}
    return [
        StepClaim(
            author,
            at,
            step,
            support[step.stated],
            support[step.stated] < 2 and anchored.issuperset(step.inputs),
        )
        for author, chain in chains.items()
        for at, step in enumerate(chain)
    ]


def conflict_set(question: Question, responses: Sequence[Response]) -> list[StepClaim]:
    """The claims to audit, per author in order; empty where the experts' final values agree.

    A chain whose roots are hidden gives its first unsupported step.
    """
    finals = {it.value for it in responses}
    if len(finals) < 2 and None not in finals:
        return []
    claimed = step_claims(question, responses)
    chosen: list[StepClaim] = []
    for author in dict.fromkeys(it.author for it in responses):
        own = [it for it in claimed if it.author == author and it.support < 2]
        chosen.extend([it for it in own if it.root] or own[:1])
    return chosen
