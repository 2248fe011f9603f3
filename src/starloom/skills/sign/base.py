"""The nouns of a release, and envelopes (DSSE v1.0.2) with the checks that all payloads share.

Statements follow in-toto v1 (github.com/in-toto/attestation, spec/v1): every file of the skill is a
subject, the predicate says what was decided, by which policy and until when.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starloom.skills.errors import MissingExtra, Unsigned

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://starloom.dev/attestation/skill-release/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
MAX_ENVELOPE_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Release:
    """What an envelope says once its signatures held. Times are Unix seconds."""

    skill: str
    version: int
    """Counts up by one with each release of a skill; loading refuses to go back."""
    files: dict[str, str]
    identity: str
    """SHA-256 of the canonical manifest."""
    decision: str
    worst: str
    findings_sha256: str
    rules: str
    policy_sha256: str
    level: str
    issued_s: float
    expires_s: float
    approved_by: tuple[str, ...] = ()


def canonical_json(value: Any) -> bytes:
    """Sorted keys, no blanks: the same value is the same bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sealed(payload: Mapping[str, Any], payload_type: str, signers: Sequence[Any]) -> bytes:
    """A DSSE envelope over a payload, signed by all signers, as JSON."""
    envelope = dsse().Envelope(canonical_json(payload), payload_type, {})
    for it in signers:
        envelope.sign(it)
    return canonical_json(envelope.to_dict())


def opened(data: bytes, payload_type: str) -> tuple[Any, dict[str, Any]]:
    """An envelope and its payload; nothing is verified yet. Raises `Unsigned` for what is none."""
    if len(data) > MAX_ENVELOPE_BYTES:
        raise Unsigned("the envelope is larger than an envelope is")
    try:
        envelope = dsse().Envelope.from_dict(json.loads(data))
        payload = json.loads(envelope.payload)
    except Exception as error:  # noqa: BLE001 - whatever a hostile envelope makes the parsers raise
        raise Unsigned(f"not a DSSE envelope: {type(error).__name__}") from None
    if envelope.payload_type != payload_type or not isinstance(payload, dict):
        raise Unsigned(f"an envelope of {envelope.payload_type}, not of {payload_type}")
    return envelope, payload


def dsse() -> Any:
    """Securesystemslib's DSSE; raises `MissingExtra` without it."""
    try:
        from securesystemslib import dsse as module
    except ImportError:
        raise MissingExtra("signing needs: pip install 'starloom[skills]'") from None
    return module
