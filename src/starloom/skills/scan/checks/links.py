"""Judges addresses by themselves: look-alikes, raw addresses, text that shows one and leads to another."""

import re
from collections.abc import Iterator

from starloom.skills.base import Finding, Severity
from starloom.skills.scan.base import Context, finding
from starloom.skills.scan.hosts import (
    RESERVED,
    URL,
    host_of,
    is_local,
    lookalike,
    numeric,
    registrable,
    telling,
)

_LINK = re.compile(r"\[([^\]\n]{4,200})\]\(\s*<?((?:https?:)?//[^\s)>]+)")
_SHOWN = re.compile(
    r"(?:https?://)?((?:[a-z0-9-]+\.)+(?:com|org|net|io|dev|ai|cn|app|co))(?:[/\s]|$)",
    re.IGNORECASE,
)


def check_links(context: Context) -> Iterator[Finding]:
    """Every address that a skill names."""
    told: set[str] = set()
    for doc in context.documents:
        for m in URL.finditer(doc.folded):
            host = host_of(m.group())
            if not host or host in told or is_local(host) or RESERVED.search(host):
                continue
            told.add(host)
            like = lookalike(host)
            if like:
                severity = (
                    Severity.HIGH
                    if "punycode" in like or re.search(r"\d", registrable(host).split(".")[0])
                    else Severity.MEDIUM
                )
                yield finding(
                    "lookalike-link",
                    doc.evidence(m.start(), m.end()),
                    f"{host} imitates {like}",
                    severity,
                )
            elif telling(host):
                raw = numeric(host) and doc.language != "json"
                yield finding(
                    "telling-link",
                    doc.evidence(m.start(), m.end()),
                    f"{host}: {telling(host)}",
                    Severity.MEDIUM
                    if raw
                    and m.group().startswith("http:")
                    and re.search(r"\.(?:sh|py|exe|zip|ps1)\b", m.group())
                    else Severity.LOW,
                )
        for m in _LINK.finditer(doc.folded):
            shown, leads = _SHOWN.search(m[1].strip()), host_of(m[2])
            if (
                shown
                and leads
                and registrable(shown[1].lower()) != registrable(leads)
                and not is_local(leads)
            ):
                yield finding(
                    "lookalike-link",
                    doc.evidence(m.start(), m.end()),
                    f"shows {shown[1]}, leads to {leads}",
                    Severity.MEDIUM,
                )
