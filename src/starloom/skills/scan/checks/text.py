"""Judges letters: what is written so that people do not see it, or read it as something else."""

import re
from collections.abc import Iterator

from starloom.skills.base import Finding, Severity
from starloom.skills.scan.base import Context, finding
from starloom.skills.scan.blocks import Document
from starloom.skills.scan.checks.orders import signals

_JOINING = re.compile(r"[\u0600-\u06ff\u0900-\u0dff\u200d\U0001f000-\U0001faff\u2600-\u27bf]")
"""Scripts and pictures that need joiners."""


def check_text(context: Context) -> Iterator[Finding]:
    """Hidden letters and look-alikes in every file, first as they stand, then as they read."""
    for doc in context.documents:
        text = doc.text
        for at, said in text.smuggled:
            shown = "".join(it for it in said if it.isprintable())
            if len(shown) >= 4:
                where = doc.evidence_at_line(text.raw.count("\n", 0, at) + 1)
                yield finding(
                    "hidden-text",
                    where,
                    f"{len(said)} hidden characters say: {shown[:120]}",
                    Severity.HIGH,
                )
        if text.bidi and doc.language in ("shell", "python", "javascript", "powershell"):
            where = doc.evidence_at_line(text.raw.count("\n", 0, text.bidi[0]) + 1)
            yield finding("hidden-text", where, "bidirectional controls in code", Severity.HIGH)
        elif len(text.bidi) > 2 and "\u202e" in text.raw and not _JOINING.search(text.raw):
            where = doc.evidence_at_line(text.raw.count("\n", 0, text.bidi[0]) + 1)
            yield finding("hidden-text", where, "text is turned around", Severity.MEDIUM)
        split = [it for it in text.invisible_in_words if text.raw[it] not in "\u00ad\u200d"]
        if split:
            where = doc.evidence_at_line(text.raw.count("\n", 0, split[0]) + 1)
            read = [it for it in signals(text.folded) if not it.mentioned]
            severity = (
                Severity.HIGH
                if read and len(split) > 1
                else Severity.MEDIUM
                if len(split) > 3
                else Severity.LOW
            )
            yield finding(
                "hidden-text",
                where,
                f"{len(split)} words are split by characters that show nothing",
                severity,
            )
        if text.mixed_words:
            yield from _mixed(doc)
        spaced = re.search(r"\b(?:[a-zA-Z][ .\-_*]){7,}[a-zA-Z]\b", text.folded)
        if spaced:
            joined = re.sub(r"(?<=\w)[ .\-_*](?=\w\b)", "", spaced.group())
            if any(not it.mentioned for it in signals(re.sub(r"\s{2,}", " ", joined))):
                yield finding(
                    "hidden-text",
                    doc.evidence(spaced.start(), spaced.end()),
                    "letters are set apart",
                    Severity.HIGH,
                )


def _mixed(doc: Document) -> Iterator[Finding]:
    text = doc.text
    commands = {
        "curl",
        "bash",
        "wget",
        "sudo",
        "eval",
        "exec",
        "python",
        "powershell",
        "ignore",
        "instructions",
        "password",
        "system",
        "base64",
        "ssh",
        "chmod",
        "credentials",
        "secret",
        "token",
        "http",
        "https",
    }
    telling = [
        (at, written, read) for at, written, read in text.mixed_words if read.lower() in commands
    ]
    for at, written, read in (telling or list(text.mixed_words))[:5]:
        where = doc.evidence_at_line(text.raw.count("\n", 0, at) + 1)
        code = doc.language in ("shell", "python", "javascript", "powershell")
        severity = (
            Severity.HIGH
            if telling
            else Severity.MEDIUM
            if code or len(text.mixed_words) > 3
            else Severity.LOW
        )
        yield finding("lookalike-letters", where, f"{written!a} reads as {read}", severity)
