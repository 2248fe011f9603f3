"""CAMV: conflict-aware meta-verification. Agreement is weighed, disagreement is audited."""

from starloom.agents.camv.anchors import Anchors, Claims, Table, claims, table
from starloom.agents.camv.base import (
    Candidate,
    Check,
    Domain,
    Labelled,
    Pruned,
    Question,
    Response,
    Rule,
    Verdict,
)
from starloom.agents.camv.choice import Choice
from starloom.agents.camv.conflict import StepClaim, conflict_set, step_claims
from starloom.agents.camv.engine import MetaVerifier, Opened, Policy
from starloom.agents.camv.figure import Figure, answer_of
from starloom.agents.camv.replay import (
    Outcomes,
    Recorded,
    Weighing,
    budget_threshold,
    fewest_calls,
    held_out,
    read,
)
from starloom.agents.camv.risk import (
    Acceptance,
    certify,
    interval,
    lower_bound,
    paired_bound,
    upper_bound,
)

__all__ = [
    "Acceptance",
    "Anchors",
    "Candidate",
    "Check",
    "Choice",
    "Claims",
    "Domain",
    "Figure",
    "Labelled",
    "MetaVerifier",
    "Opened",
    "Outcomes",
    "Policy",
    "Pruned",
    "Question",
    "Recorded",
    "Response",
    "Rule",
    "StepClaim",
    "Table",
    "Verdict",
    "Weighing",
    "answer_of",
    "budget_threshold",
    "certify",
    "claims",
    "conflict_set",
    "fewest_calls",
    "held_out",
    "interval",
    "lower_bound",
    "paired_bound",
    "read",
    "step_claims",
    "table",
    "upper_bound",
]
