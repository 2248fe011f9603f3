"""Skill security: nothing that an agent loads is trusted until it has earned it.

Stage by stage: `source` (where from, by whom), `scan` (what is in it; nothing is run), `sign`
(released, and loaded only as released). Later stages join their results by `Report.join`.

The scan's patterns take a third of a second to compile: its names are imported when first used, so
that commands that scan nothing start without them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from starloom.skills.base import (
    Evidence,
    Finding,
    Rule,
    Severity,
    Skill,
    SkillFile,
    StageResult,
    Verdict,
)
from starloom.skills.errors import SkillError

if TYPE_CHECKING:
    from starloom.skills.policy import Policy
    from starloom.skills.read import Limits, read_skill
    from starloom.skills.scan.scanner import Scanner
    from starloom.skills.vetting import Report, vet

__all__ = [
    "Evidence",
    "Finding",
    "Limits",
    "Policy",
    "Report",
    "Rule",
    "Scanner",
    "Severity",
    "Skill",
    "SkillError",
    "SkillFile",
    "StageResult",
    "Verdict",
    "read_skill",
    "vet",
]

_LATER = {
    "Limits": "read",
    "Policy": "policy",
    "Report": "vetting",
    "Scanner": "scan.scanner",
    "read_skill": "read",
    "vet": "vetting",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
