"""A report on the terminal, or as data."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from allocpolicy.cli import observed
from allocpolicy.cli.cells import lines, shown_labels, structured
from allocpolicy.report.report import Report
from allocpolicy.wording import format_size

_SIZES = (
    *("peak_bytes", "promised_bytes", "reserved_bytes"),
    *("headroom_bytes", "free_bytes", "free_after_bytes"),
)
COLUMNS = (
    *("disk", "changed", "requested", "effective", "unmet", "options", "labels"),
    "dry run",
    *observed.COLUMNS,
    *("verdict", "attach with", "steps"),
    *_SIZES,
    "elapsed",
)
FIELDS = (
    *("disk", "operation", "mode", "changed", "dry_run", "requested", "effective"),
    *("unmet", "labels", "before", "observed", "verdict", "attachment", "stamp"),
    *("steps", *_SIZES, "elapsed"),
)


def shown(report: Report, *, arguments: argparse.Namespace) -> Mapping[str, object]:
    """Return the report by name: the document, or one value a row for people."""
    return report.as_document() if structured(arguments) else _summary(report)


def _summary(report: Report) -> Mapping[str, object]:
    requested, effective = report.requested, report.effective
    origin = requested.origin
    rows: dict[str, object] = {
        "disk": report.disk,
        "changed": report.changed,
        "requested": f"{requested.strategy} (by {origin.key}, {origin.source})",
        "effective": f"{effective.strategy} ({report.effective_reason})",
        "options": lines(f"{name} = {one}" for name, one in effective.options.items()),
    }
    if report.unmet is not None:
        rows["unmet"] = report.unmet
    if report.labels:
        rows["labels"] = shown_labels(report.labels)
    if report.observed is None:
        rows["dry run"] = "nothing was done"
    else:
        rows |= observed.rows(report.observed)
    if report.verdict:
        rows["verdict"] = f"{report.verdict.judgement}: {report.verdict.reason}"
    if report.attachment:
        rows["attach with"] = observed.options(report.attachment)
    rows["steps"] = lines(report.steps)
    if report.dry_run:
        rows["peak_bytes"] = f"{format_size(report.peak_bytes)} while it is done"
        rows["promised_bytes"] = f"{format_size(report.promised_bytes)} in the end"
        rows["reserved_bytes"] = f"{format_size(report.reserved_bytes)} of that at once"
        rows["headroom_bytes"] = f"{format_size(report.headroom_bytes or 0)} kept free"
        rows["free_bytes"] = f"{format_size(report.free_bytes or 0)} before"
        rows["free_after_bytes"] = (
            f"{format_size(report.free_after_bytes or 0)} or more"
        )
    rows["elapsed"] = f"{report.elapsed:.3f} s"
    return rows
