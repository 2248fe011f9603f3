"""SARIF 2.1.0 (OASIS), as code hosts and editors read it."""

import urllib.parse
from typing import Any

from starloom import __version__
from starloom.skills.base import Severity
from starloom.skills.vetting import Report

_LEVEL = {
    Severity.INFO: "note",
    Severity.LOW: "note",
    Severity.MEDIUM: "warning",
    Severity.HIGH: "error",
    Severity.CRITICAL: "error",
}
_SCORE = {
    Severity.INFO: "0.0",
    Severity.LOW: "3.0",
    Severity.MEDIUM: "5.5",
    Severity.HIGH: "8.0",
    Severity.CRITICAL: "9.5",
}
"""`security-severity`, on the scale of CVSS, by which code hosts rank."""


def sarif(report: Report) -> dict[str, Any]:
    """One run with the rules that held and their results."""
    rules = {it.rule.id: it.rule for it in report.findings}
    order = {it: at for at, it in enumerate(rules)}
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "starloom skill vet",
                        "version": __version__,
                        "rules": [
                            {
                                "id": it.id,
                                "shortDescription": {"text": it.title},
                                "fullDescription": {"text": it.why},
                                "help": {"text": it.fix},
                                "defaultConfiguration": {"level": _LEVEL[it.severity]},
                                "properties": {
                                    "tags": ["security", *it.owasp, *it.atlas],
                                    "security-severity": _SCORE[it.severity],
                                },
                            }
                            for it in rules.values()
                        ],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "results": [
                    {
                        "ruleId": it.rule.id,
                        "ruleIndex": order[it.rule.id],
                        "level": _LEVEL[it.severity],
                        "message": {"text": f"{it.rule.title}: {it.note}"},
                        "locations": [
                            {
                                "physicalLocation": {
                                    "artifactLocation": {
                                        "uri": urllib.parse.quote(it.evidence.file)
                                    },
                                    "region": {
                                        "startLine": max(it.evidence.line, 1),
                                        "charOffset": it.evidence.start,
                                        "charLength": max(it.evidence.end - it.evidence.start, 0),
                                        "snippet": {"text": it.evidence.text},
                                    },
                                }
                            }
                        ],
                        "properties": {
                            "severity": it.severity.name,
                            "stage": it.stage,
                            "via": list(it.evidence.via),
                        },
                    }
                    for it in report.findings
                ],
                "properties": {
                    "decision": report.verdict.decision,
                    "reasons": list(report.verdict.reasons),
                },
            }
        ],
    }
