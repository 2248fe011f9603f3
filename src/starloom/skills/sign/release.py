"""A vetted skill becomes a release: an in-toto statement in a DSSE envelope, and back."""

import hashlib
import math
from collections.abc import Sequence
from typing import Any

from starloom.skills.errors import SignatureRefused, Unsigned
from starloom.skills.manifest import digest, manifest
from starloom.skills.report.record import finding_record
from starloom.skills.sign.base import (
    PAYLOAD_TYPE,
    PREDICATE_TYPE,
    STATEMENT_TYPE,
    Release,
    canonical_json,
    opened,
    sealed,
)
from starloom.skills.sign.keys import KeyRing
from starloom.skills.vetting import Report

_DAY_S = 86_400.0


def release(
    report: Report,
    version: int,
    signers: Sequence[Any],
    now_s: float,
    approved_by: Sequence[str] = (),
) -> bytes:
    """The envelope of a skill that passed, or that named people approved where the policy asks.

    Raises `SignatureRefused` for a blocked skill, and `Unsignable` for one whose files cannot be
    listed.
    """
    decision = report.verdict.decision
    if decision == "block":
        raise SignatureRefused(f"{report.skill.name} is blocked: {report.verdict.reasons[0]}")
    if decision == "ask" and not approved_by:
        raise SignatureRefused(f"{report.skill.name} needs approval: {report.verdict.reasons[0]}")
    files = manifest(report.skill)
    findings = [finding_record(it) for it in report.findings]
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": path, "digest": {"sha256": it}} for path, it in files.items()],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "skill": report.skill.name,
            "version": version,
            "manifest": digest(files),
            "scan": {
                "decision": decision,
                "worst": max((it.severity for it in report.findings), default=0),
                "findings": len(findings),
                "findings_sha256": hashlib.sha256(canonical_json(findings)).hexdigest(),
                "rules": str(report.stages[0].facts.get("rules", "")),
                "stages": [it.stage for it in report.stages if not it.skipped],
            },
            "policy_sha256": report.policy.digest(),
            "source": {
                "level": report.source.level.name,
                "publisher": report.source.publisher,
                "origin": report.source.origin,
            },
            "approved_by": sorted(approved_by),
            "issued_s": now_s,
            "expires_s": now_s + report.policy.expires_days * _DAY_S,
        },
    }
    return sealed(statement, PAYLOAD_TYPE, signers)


def released(
    data: bytes, ring: KeyRing, now_s: float, revoked: frozenset[str] = frozenset()
) -> Release:
    """What an envelope says, after its signatures held. Raises the kinds of `SignatureRefused`."""
    envelope, payload = opened(data, PAYLOAD_TYPE)
    ring.verify(envelope, now_s, revoked)
    try:
        if payload["_type"] != STATEMENT_TYPE or payload["predicateType"] != PREDICATE_TYPE:
            raise Unsigned(f"a statement of {payload['predicateType']}, not of a skill's release")
        said, scan = payload["predicate"], payload["predicate"]["scan"]
        files = {str(it["name"]): str(it["digest"]["sha256"]) for it in payload["subject"]}
        issued, expires = float(said["issued_s"]), float(said["expires_s"])
        made = Release(
            skill=str(said["skill"]),
            version=int(said["version"]),
            files=files,
            identity=str(said["manifest"]),
            decision=str(scan["decision"]),
            worst=str(scan["worst"]),
            findings_sha256=str(scan["findings_sha256"]),
            rules=str(scan["rules"]),
            policy_sha256=str(said["policy_sha256"]),
            level=str(said["source"]["level"]),
            issued_s=issued,
            expires_s=expires,
            approved_by=tuple(said["approved_by"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Unsigned(f"a release statement without {error!r}") from None
    if not math.isfinite(issued) or not math.isfinite(expires):
        raise Unsigned("a release without dates")
    if made.identity != digest(files) or len(files) != len(payload["subject"]):
        raise Unsigned("a release whose list of files does not agree with itself")
    return made
