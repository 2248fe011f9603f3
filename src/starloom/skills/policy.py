"""Which skills may go on: thresholds by source level; a file with unknown fields is refused."""

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from starloom.skills.base import Finding, Severity, Verdict
from starloom.skills.errors import PolicyError
from starloom.skills.scan.rules import RULES
from starloom.skills.source.base import Level, Publisher, SourceResult


def _severity(value: Any) -> Any:
    return (
        Severity[value.upper()]
        if isinstance(value, str) and value.upper() in Severity.__members__
        else value
    )


def _level(value: Any) -> Any:
    return (
        Level[value.upper()]
        if isinstance(value, str) and value.upper() in Level.__members__
        else value
    )


SeverityField = Annotated[Severity, BeforeValidator(_severity)]
LevelField = Annotated[Level, BeforeValidator(_level)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Threshold(_Strict):
    """From which severity on somebody is asked, and from which on the skill is stopped."""

    ask: SeverityField
    block: SeverityField


class PublisherEntry(_Strict):
    """See `source.Publisher`."""

    name: str
    level: LevelField
    reason: str = Field(min_length=3)
    fingerprints: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()


class Waiver(_Strict):
    """A finding that a person looked at and accepts, for the very bytes that they saw."""

    rule: str
    file: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    reason: str = Field(min_length=3)
    by: str


class Policy(_Strict):
    """What a site asks of a skill."""

    minimum_level: LevelField = Level.UNKNOWN
    thresholds: dict[str, Threshold] = Field(default_factory=dict)
    publishers: tuple[PublisherEntry, ...] = ()
    waivers: tuple[Waiver, ...] = ()
    expires_days: float = Field(default=90.0, gt=0)
    """How long a release of a skill that passed is good for."""

    @classmethod
    def load(cls, path: Path) -> "Policy":
        """Read a policy; raises `PolicyError` that names the field."""
        try:
            policy = cls.model_validate(yaml.safe_load(path.read_text("utf-8")) or {})
        except (OSError, yaml.YAMLError, ValidationError, KeyError) as error:
            raise PolicyError(f"{path}: {error}") from None
        for it in policy.waivers:
            if it.rule not in RULES:
                raise PolicyError(f"{path}: waiver of {it.rule}: there is no such rule")
        for name in policy.thresholds:
            if name.upper() not in Level.__members__:
                raise PolicyError(f"{path}: thresholds: {name}: no level of that name")
        return policy

    def threshold(self, level: Level) -> Threshold:
        """The threshold of a level: the file's, or the default."""
        return self.thresholds.get(level.name.lower(), _DEFAULTS[level])

    def publisher_list(self) -> list[Publisher]:
        return [
            Publisher(it.name, it.level, it.reason, it.fingerprints, it.origins)
            for it in self.publishers
        ]

    def digest(self) -> str:
        """SHA-256 of the policy in canonical JSON: it goes into what is signed."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def waived(self, finding: Finding, files: dict[str, str]) -> bool:
        """Whether a person accepted this finding in these bytes; CRITICAL is never waived."""
        top = finding.evidence.file.split("!")[0]
        return finding.severity < Severity.CRITICAL and any(
            it.rule == finding.rule.id
            and it.file == finding.evidence.file
            and files.get(top) == it.sha256
            for it in self.waivers
        )

    def verdict(self, source: SourceResult, findings: list[Finding]) -> Verdict:
        """What may happen, with every reason, worst first. The findings stay as they are."""
        bound = self.threshold(source.level)
        asks: list[str] = []
        blocks: list[str] = []
        if source.level < self.minimum_level:
            blocks.append(
                f"source is {source.level.name}, and {self.minimum_level.name} is asked for"
            )
        for it in findings:
            text = (
                f"{it.severity.name} {it.rule.id} {it.evidence.file}:{it.evidence.line} {it.note}"
            )
            if it.severity >= bound.ask and self.waived(it, source.files):
                asks.append(f"waived: {text}")
            elif it.severity >= bound.block:
                blocks.append(text)
            elif it.severity >= bound.ask:
                asks.append(text)
        decision = (
            Verdict("block")
            if blocks
            else Verdict("ask" if any(not it.startswith("waived") for it in asks) else "pass")
        )
        return Verdict(decision.decision, (*blocks, *asks))


_DEFAULTS = {
    Level.OFFICIAL: Threshold(ask=Severity.HIGH, block=Severity.CRITICAL),
    Level.COMMUNITY: Threshold(ask=Severity.HIGH, block=Severity.CRITICAL),
    Level.DEVELOPER: Threshold(ask=Severity.HIGH, block=Severity.HIGH),
    Level.UNKNOWN: Threshold(ask=Severity.MEDIUM, block=Severity.HIGH),
}
