"""The meta-verifier: prune, anchor, audit what is uncertain, conclude or abstain. Pure.

`begin` says what the experts' answers are worth and whether an audit is due; whoever runs it asks
the verifier and hands what it said to `conclude`. So the same object replays recorded answers in a
bench, and waits for a live model in a run that may be killed in between.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from starloom.agents.camv.anchors import Anchors, Claims, claims, table
from starloom.agents.camv.base import (
    Candidate,
    Check,
    Domain,
    Question,
    Response,
    Verdict,
)
from starloom.agents.errors import CalibrationError


@dataclass(frozen=True, slots=True)
class Policy:
    """When to audit, when to accept.

    An audit is due where the best value's probability is below `audit_below`; a value is given out
    where its probability is at least `accept_from` (None: never, the stated risk is out of reach).
    """

    audit_below: float
    accept_from: float | None = 0.0


@dataclass(frozen=True, slots=True)
class Opened:
    """What is known before an audit. `settled` is the verdict where none is due."""

    question: Question
    experts: tuple[Response | None, ...]
    claimed: Claims
    candidates: tuple[Candidate, ...]
    settled: Verdict | None

    @property
    def question_to_verifier(self) -> str:
        """What an audit asks: the question as it stands, and the values in dispute.

        The reasons stay out, so that the verifier does not follow the better-sounding one.
        """
        values = ", ".join(sorted(it.value for it in self.candidates)) or "none"
        return f"{self.question.text}\n\nAnswers in dispute: {values}."


class MetaVerifier:
    """One team of experts and one verifier over one domain.

    `alone` weighs the experts' answers, `joined` the experts' and the verifier's.
    """

    def __init__(
        self,
        domain: Domain,
        team: Sequence[str],
        verifier: str,
        alone: Anchors,
        joined: Anchors,
        policy: Policy,
    ) -> None:
        self.domain = domain
        self.team = tuple(team)
        self.verifier = verifier
        self.alone = alone
        self.joined = joined
        self.policy = policy

    def begin(self, question: Question, responses: Sequence[Response]) -> Opened:
        """Weigh the experts' answers; raises ValueError for an author who is not in the team."""
        strangers = {it.author for it in responses} - set(self.team)
        if strangers:
            raise ValueError(f"{', '.join(sorted(strangers))}: not in the team {self.team}")
        by_author = {it.author: it for it in responses}
        experts = tuple(by_author.get(it) for it in self.team)
        claimed = claims(self.domain, question, experts)
        candidates = _weighed(claimed, self.alone)
        best = candidates[0].probability if candidates else 0.0
        settled = None
        if best >= self.policy.audit_below:
            settled = self._verdict(question, claimed, candidates, "anchored", ())
        return Opened(question, experts, claimed, candidates, settled)

    def conclude(self, opened: Opened, said: Response, cost_calls: float = 1.0) -> Verdict:
        """Weigh the experts' answers together with the verifier's."""
        responses = [*opened.experts, said]
        claimed = claims(self.domain, opened.question, responses, read=said)
        candidates = _weighed(claimed, self.joined)
        check = Check(said.author, opened.question_to_verifier, said.value or "", cost_calls)
        return self._verdict(opened.question, claimed, candidates, "audited", (check,))

    def _verdict(
        self,
        question: Question,
        claimed: Claims,
        candidates: tuple[Candidate, ...],
        status: str,
        checks: tuple[Check, ...],
    ) -> Verdict:
        best = candidates[0] if candidates else None
        least = self.policy.accept_from
        cost = sum(it.cost_calls for it in checks)
        if best is None or least is None or best.probability < least:
            probability = best.probability if best else 0.0
            return Verdict(
                question.id,
                "abstained",
                None,
                probability,
                candidates,
                claimed.pruned,
                checks,
                cost,
            )
        return Verdict(
            question.id,
            "audited" if status == "audited" else "anchored",
            best.value,
            best.probability,
            candidates,
            claimed.pruned,
            checks,
            cost,
        )

    def dumps(self) -> str:
        """What was calibrated, as JSON; `loads` with the same domain restores it bit for bit."""
        return json.dumps(
            {
                "team": self.team,
                "verifier": self.verifier,
                "features": [
                    self.domain.question_names,
                    self.domain.response_names,
                    self.domain.mention_names,
                ],
                "alone": self.alone.weights.tolist(),
                "joined": self.joined.weights.tolist(),
                "audit_below": self.policy.audit_below,
                "accept_from": self.policy.accept_from,
            }
        )

    @classmethod
    def loads(cls, text: str, domain: Domain) -> "MetaVerifier":
        """Raises CalibrationError where it was calibrated over other features."""
        held = json.loads(text)
        names = [domain.question_names, domain.response_names, domain.mention_names]
        if held["features"] != [list(it) for it in names]:
            raise CalibrationError("calibrated over other features than this domain's: do it again")
        policy = Policy(held["audit_below"], held["accept_from"])
        alone, joined = (Anchors(np.array(held[it])) for it in ("alone", "joined"))
        return cls(domain, held["team"], held["verifier"], alone, joined, policy)


def _weighed(claimed: Claims, anchors: Anchors) -> tuple[Candidate, ...]:
    """The candidates, the most probable first."""
    if not claimed.values:
        return ()
    p = anchors.probabilities(table([claimed]))[0]
    order = np.argsort(-p, kind="stable")
    return tuple(Candidate(claimed.values[i], claimed.authors[i], float(p[i])) for i in order)
