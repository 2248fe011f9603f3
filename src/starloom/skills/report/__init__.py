"""A report as data (JSON), for code hosts (SARIF 2.1.0), and as a page for people."""

from starloom.skills.report.page import page
from starloom.skills.report.record import finding_record, report_record
from starloom.skills.report.sarif import sarif

__all__ = ["finding_record", "page", "report_record", "sarif"]
