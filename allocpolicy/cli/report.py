"""A report on the terminal, or as data."""

from __future__ import annotations

from collections.abc import Mapping

from allocpolicy.cli import observed
from allocpolicy.cli.command import STRUCTURED, lines
from allocpolicy.report.report import Report


def shown(
    report: Report, *, formatter: str
) -> tuple[tuple[str, ...], tuple[object, ...]]:
    """Return the report as cliff shows one thing: names, and their values."""
    rows = report.as_document() if formatter in STRUCTURED else _summary(report)
    return tuple(rows), tuple(rows.values())


def _summary(report: Report) -> Mapping[str, object]:
    """Return the report for people: one value a row."""
    requested, effective = report.requested, report.effective
    origin = requested.origin
    rows: dict[str, object] = {
        "disk": report.disk,
        "requested": f"{requested.strategy} (by {origin.key}, {origin.source})",
        "effective": f"{effective.strategy} ({report.effective_reason})",
        "options": lines(f"{name} = {one}" for name, one in effective.options.items()),
    }
    if report.observed is None:
        rows["dry run"] = "nothing was made"
    else:
        rows |= observed.rows(report.observed)
    if report.verdict:
        rows["verdict"] = f"{report.verdict.judgement}: {report.verdict.reason}"
    if report.attachment:
        rows["attach with"] = observed.options(report.attachment)
    rows["steps"] = lines(report.steps)
    rows["elapsed"] = f"{report.elapsed:.3f} s"
    return rows
