"""Word lists, patterns, a safety model and media checks. What they do not cover: `guard`."""

from starloom.serve.guard.audit import Audit, AuditFile, AuditRecord, audit_records
from starloom.serve.guard.base import Entry, Finder, TextFilter, Verdict
from starloom.serve.guard.guard import Checked, Guard
from starloom.serve.guard.loose import LooseMatcher
from starloom.serve.guard.media import MediaPart, is_payload, media_parts
from starloom.serve.guard.stream import OutputFilter
from starloom.serve.guard.words import Matcher

__all__ = [
    "Audit",
    "AuditFile",
    "AuditRecord",
    "Checked",
    "Entry",
    "Finder",
    "Guard",
    "LooseMatcher",
    "Matcher",
    "MediaPart",
    "OutputFilter",
    "TextFilter",
    "Verdict",
    "audit_records",
    "is_payload",
    "media_parts",
]
