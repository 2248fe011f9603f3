"""The contract of a check: it sees a whole skill as documents and gives findings."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from starloom.skills.base import Evidence, Finding, Severity, Skill
from starloom.skills.scan.blocks import Block, Document
from starloom.skills.scan.flow import Session
from starloom.skills.scan.hosts import Neighbourhood
from starloom.skills.scan.rules import RULES


@dataclass(slots=True)
class Context:
    """A skill, cut up once for all checks."""

    skill: Skill
    documents: list[Document] = field(default_factory=list)
    blocks: list[tuple[Document, Block]] = field(default_factory=list)
    sessions: list[tuple[Document, Block, Session]] = field(default_factory=list)
    """One per block of code; blocks of one Markdown file share files through theirs."""
    front: dict[str, Any] = field(default_factory=dict)
    declared: tuple[str, ...] = ()
    """Addresses that the front matter names as the skill's own."""
    hosts: Neighbourhood = field(default_factory=lambda: Neighbourhood(""))


class Check(Protocol):
    """Looks at a skill; reads nothing but the context, runs nothing."""

    def __call__(self, context: Context) -> Iterator[Finding]: ...


def in_code(
    rule: str, doc: Document, block: Block, line: int, note: str, severity: Severity | None = None
) -> Finding:
    """A finding at a line of a block; a block that is shown as a bad example weighs little."""
    where = doc.evidence_at_line(block.line + line - 1)
    if doc.base_line:
        where = doc.evidence(block.start, block.start + len(block.text))
    found = finding(rule, where, note, severity)
    if block.example and found.severity > Severity.LOW:
        return finding(rule, where, f"{note} (shown as a bad example)", Severity.LOW)
    return found


def finding(rule: str, evidence: Evidence, note: str, severity: Severity | None = None) -> Finding:
    """A finding of a rule in the table; its usual severity unless said otherwise."""
    it = RULES[rule]
    return Finding(it, it.severity if severity is None else severity, evidence, note)
