"""Word lists over the input and the streamed output of models. What it does not cover: `guard`."""

from starloom.serve.guard.audit import Audit, AuditFile, AuditRecord, audit_records
from starloom.serve.guard.base import TextFilter, Verdict
from starloom.serve.guard.guard import Checked, Guard
from starloom.serve.guard.stream import OutputFilter
from starloom.serve.guard.words import Entry, Matcher

__all__ = [
    "Audit",
    "AuditFile",
    "AuditRecord",
    "Checked",
    "Entry",
    "Guard",
    "Matcher",
    "OutputFilter",
    "TextFilter",
    "Verdict",
    "audit_records",
]
