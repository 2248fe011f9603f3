"""The common nouns: a skill as bytes, a finding with its evidence, a verdict with its reasons.

Every stage (source, scan, sandbox, agent tests, sign, firewall, response) speaks in these. A stage
adds findings; none removes or lowers what another one found.
"""

import enum
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

EXCERPT_CHARS = 200


class Severity(enum.IntEnum):
    """How bad it is if the finding is true. HIGH and above stops a skill."""

    INFO = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3
    CRITICAL = 4


@dataclass(frozen=True, slots=True)
class Rule:
    """What is looked for, why it matters, how an author mends it, and what others call it.

    `owasp` holds ids of the OWASP Top 10 for Agentic Applications 2026 (ASI01..ASI10) and of the
    OWASP Agentic Skills Top 10 (AST01..AST10); `atlas` holds MITRE ATLAS technique ids.
    """

    id: str
    title: str
    severity: Severity
    why: str
    fix: str
    owasp: tuple[str, ...] = ()
    atlas: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """Where it stands: 1-based line, and the span in the file's text (or of its bytes).

    `via` says through which decoding or which archive the text was reached, outermost first.
    """

    file: str
    line: int
    start: int = 0
    end: int = 0
    text: str = ""
    via: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Finding:
    """One rule that holds at one place. `note` says what was seen, in words."""

    rule: Rule
    severity: Severity
    evidence: Evidence
    note: str
    stage: str = "scan"

    @property
    def key(self) -> tuple[str, str, int, str]:
        return (self.rule.id, self.evidence.file, self.evidence.line, self.note)


Kind = Literal["file", "symlink", "hardlink", "device"]


@dataclass(frozen=True, slots=True)
class SkillFile:
    """One entry of a skill. `data` is None where it was not read; `problem` then says why.

    `path` is relative with `/`; a member of an archive is `archive.zip!inner/path`.
    """

    path: str
    size_bytes: int
    sha256: str = ""
    data: bytes | None = None
    mode: int = 0o644
    kind: Kind = "file"
    target: str = ""
    problem: str = ""

    @property
    def name(self) -> str:
        return self.path.rsplit("/", 1)[-1].rsplit("!", 1)[-1]

    @property
    def in_archive(self) -> bool:
        return "!" in self.path


@dataclass(frozen=True, slots=True)
class Skill:
    """A skill as read: bytes only. `problems` are of the whole (bounds that were hit)."""

    name: str
    root: str
    files: tuple[SkillFile, ...]
    problems: tuple[str, ...] = ()

    def file(self, path: str) -> SkillFile | None:
        return next((it for it in self.files if it.path == path), None)


Decision = Literal["pass", "ask", "block"]
_ORDER: tuple[Decision, ...] = ("pass", "ask", "block")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What may happen to the skill, and each reason for it, worst first."""

    decision: Decision
    reasons: tuple[str, ...] = ()

    def joined(self, other: "Verdict") -> "Verdict":
        """The stricter of two, with the reasons of both."""
        worst = max(self, other, key=lambda it: _ORDER.index(it.decision))
        return Verdict(worst.decision, (*self.reasons, *other.reasons))


@dataclass(slots=True)
class StageResult:
    """What one stage says: findings and facts. `skipped` says why it did not run."""

    stage: str
    findings: list[Finding] = field(default_factory=list)
    facts: dict[str, object] = field(default_factory=dict)
    skipped: str = ""

    @property
    def worst(self) -> Severity:
        return worst(self.findings)


def worst(findings: Iterable[Finding]) -> Severity:
    """The highest severity, INFO when there is none."""
    return max((it.severity for it in findings), default=Severity.INFO)


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """Without doubles (the higher severity stays), the worst first, then by place."""
    best: dict[tuple[str, str, int, str], Finding] = {}
    for it in findings:
        held = best.get(it.key)
        if held is None or it.severity > held.severity:
            best[it.key] = it
    return sorted(
        best.values(),
        key=lambda it: (-it.severity, it.rule.id, it.evidence.file, it.evidence.line, it.note),
    )


def excerpt(text: str, start: int, end: int, room: int = EXCERPT_CHARS) -> str:
    """The text of a span for people: one line, control characters shown, marked where it is cut."""
    piece = text[start : min(end, start + room)]
    shown = "".join(c if c.isprintable() else _visible(c) for c in piece)
    return shown + (" [...]" if end - start > room else "")


def _visible(char: str) -> str:
    return " " if char in "\n\t\r" else f"<U+{ord(char):04X}>"


def line_of(starts: Sequence[int], offset: int) -> int:
    """The 1-based line of an offset, given the offsets at which lines start."""
    return max(1, bisect_right(starts, offset))
