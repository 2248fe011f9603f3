"""A report as plain data."""

from typing import Any

from starloom.skills.base import Finding
from starloom.skills.vetting import Report


def finding_record(it: Finding) -> dict[str, Any]:
    """One finding with its rule in full: a reader needs no table of rules."""
    return {
        "rule": it.rule.id,
        "title": it.rule.title,
        "severity": it.severity.name,
        "stage": it.stage,
        "note": it.note,
        "file": it.evidence.file,
        "line": it.evidence.line,
        "span": [it.evidence.start, it.evidence.end],
        "via": list(it.evidence.via),
        "text": it.evidence.text,
        "why": it.rule.why,
        "fix": it.rule.fix,
        "owasp": list(it.rule.owasp),
        "atlas": list(it.rule.atlas),
    }


def report_record(report: Report) -> dict[str, Any]:
    """The whole report."""
    return {
        "skill": report.skill.name,
        "verdict": {"decision": report.verdict.decision, "reasons": list(report.verdict.reasons)},
        "source": {
            "level": report.source.level.name,
            "publisher": report.source.publisher,
            "origin": report.source.origin,
            "reasons": list(report.source.reasons),
            "signature": report.source.signature.fingerprint if report.source.signature else None,
        },
        "policy_sha256": report.policy.digest(),
        "stages": [
            {
                "stage": it.stage,
                "worst": it.worst.name,
                "findings": len(it.findings),
                "skipped": it.skipped,
                "facts": it.facts,
            }
            for it in report.stages
        ],
        "files": report.source.files,
        "findings": [finding_record(it) for it in report.findings],
    }
