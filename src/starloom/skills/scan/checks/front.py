"""Judges front matter: it stands in every prompt, so it may describe, never command."""

import re
from collections.abc import Iterator

from starloom.skills.base import Finding, Severity
from starloom.skills.scan.base import Context, finding
from starloom.skills.scan.checks.orders import signals

MAX_DESCRIPTION_CHARS = 1_024
"""Of the agent skills specification (agentskills.io); the name may have 64."""
_ORDERS = {
    "override",
    "conceal",
    "skip-approval",
    "fake-authority",
    "give-secrets",
    "show-secrets",
    "send-everything",
    "fake-tag",
}
_ALWAYS = re.compile(
    r"\b(?:always|must) (?:use|invoke|call|load|run) this skill (?:first|for (?:every|all|any))|\b(?:use|invoke) (?:this|me) (?:instead of|before) (?:any|all|every)|必须(?:始终|总是|优先)(?:使用|调用)本",
    re.IGNORECASE,
)
_FETCH = re.compile(
    r"\b(?:download|run (?:the )?(?:installation|install|setup) command|password\s*:|extract)\b.*\b(?:windows|macos|mac|linux|exe|zip|terminal|command)\b",
    re.IGNORECASE | re.DOTALL,
)


def check_front(context: Context) -> Iterator[Finding]:
    """The front matter of SKILL.md."""
    doc = next(
        (
            it
            for it in context.documents
            if it.path.rsplit("/", 1)[-1].lower() == "skill.md" and not it.base_line
        ),
        None,
    )
    if doc is None:
        return
    where = doc.evidence_at_line(1)
    front = context.front
    if not front:
        yield finding("front-matter", where, "no front matter that can be read")
        return
    description = front.get("description")
    for name in ("name", "description"):
        if not isinstance(front.get(name), str):
            yield finding("front-matter", where, f"no {name}")
    text = "\n".join(
        it
        for it in (front.get("name"), description, front.get("compatibility"))
        if isinstance(it, str)
    )
    at = doc.folded.find(str(description)[:40]) if isinstance(description, str) else 0
    where = doc.evidence(max(at, 0), max(at, 0) + len(text))
    text = text[:8_192]  # a longer description is a finding of its own
    if isinstance(description, str) and len(description) > MAX_DESCRIPTION_CHARS:
        yield finding("front-matter-long", where, f"{len(description):,} characters")
    for it in signals(text):
        if it.kind in _ORDERS and not it.mentioned:
            yield finding(
                "front-matter-orders",
                where,
                f"{it.kind}: {text[it.start : it.end][:80]}",
                Severity.HIGH,
            )
    if _FETCH.search(text):
        yield finding(
            "prerequisite-download",
            where,
            "the description tells people to fetch and start a program",
            Severity.HIGH,
        )
    if _ALWAYS.search(text):
        yield finding(
            "front-matter-orders", where, "wants to be used for everything", Severity.MEDIUM
        )
    if re.search(r"[A-Za-z0-9+/]{60,}={0,2}", text):
        yield finding("front-matter-orders", where, "holds encoded text", Severity.MEDIUM)
    tools = front.get("allowed-tools", front.get("allowed_tools", front.get("tools")))
    listed = (
        tools
        if isinstance(tools, list)
        else re.split(r"[,\s]+(?![^(]*\))", tools)
        if isinstance(tools, str)
        else []
    )
    wide = [
        str(it)
        for it in listed
        if str(it).strip() in ("*", "all", "Bash", "Bash(*)", "Bash(*:*)", "shell", "exec")
    ]
    if wide:
        yield finding("broad-tools", where, ", ".join(wide))
