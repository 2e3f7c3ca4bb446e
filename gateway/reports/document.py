"""The report's JSON twin, and what leaves the house of either form."""

from dataclasses import replace

import msgspec

from gateway.reports.report import Report


def as_json(report: Report) -> bytes:
    """Return the report as JSON for people and machines, with a newline at its end (REP-5)."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def redacted(report: Report) -> Report:
    """Return the report without who, why and whose: no person, free text or other task (PM8)."""
    breaches = report.breaches
    return replace(
        report,
        redacted=True,
        overrides=tuple(replace(one, approver=None, reason=None) for one in report.overrides),
        breaches=None
        if breaches is None
        else tuple(replace(one, name=None, call=None) for one in breaches),
    )
