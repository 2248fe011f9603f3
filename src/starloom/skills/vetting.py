"""The way of a skill from a folder to a verdict: read, source, scan, and what joins later.

Each stage is given what was read, once: nobody reads the folder a second time.
"""

from dataclasses import dataclass, field
from pathlib import Path

from starloom.skills.base import Finding, Skill, StageResult, Verdict, merged
from starloom.skills.policy import Policy
from starloom.skills.read import Limits, read_skill
from starloom.skills.scan.scanner import Scanner
from starloom.skills.source.base import SourceResult
from starloom.skills.source.gpg import AuthorKeys
from starloom.skills.source.trust import assess


@dataclass(slots=True)
class Report:
    """A skill's whole record: what was read, what each stage said, and the verdict."""

    skill: Skill
    source: SourceResult
    stages: list[StageResult]
    verdict: Verdict
    policy: Policy = field(default_factory=Policy)

    @property
    def findings(self) -> list[Finding]:
        """Of all stages, the worst first."""
        return merged(it for stage in self.stages for it in stage.findings)

    def join(self, stage: StageResult) -> None:
        """Add what a later stage found; the verdict can only get stricter."""
        self.stages.append(stage)
        self.verdict = self.verdict.joined(self.policy.verdict(self.source, stage.findings))


def vet(
    path: Path,
    policy: Policy | None = None,
    *,
    origin: str = "",
    keys: AuthorKeys | None = None,
    scanner: Scanner | None = None,
    limits: Limits | None = None,
) -> Report:
    """Source and scan of the skill at `path`, judged by `policy`.

    Raises `UnreadableSkill` where there is nothing to read. Nothing of the skill is executed.
    """
    policy = policy or Policy()
    skill = read_skill(path, limits)
    source = assess(skill, origin, policy.publisher_list(), keys)
    scanned = (scanner or Scanner()).scan(skill)
    return Report(skill, source, [scanned], policy.verdict(source, scanned.findings), policy)
