"""What became of several disks: a row for each, as ``apply`` and ``libvirt apply``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from allocpolicy.cli.command import Lister
from allocpolicy.cli.options import detailed_exitcode
from allocpolicy.cli.screens import brief
from allocpolicy.cli.screens.columns import (
    Column,
    Data,
    column,
    path,
    said,
    sentence,
    size,
)
from allocpolicy.contract.plan import Mode
from allocpolicy.contract.policy import Policy
from allocpolicy.operations.change_order import Change
from allocpolicy.operations.data_path import AS_REQUESTED, NOTHING_TO_DO
from allocpolicy.operations.instance import apply_all
from allocpolicy.progress import Watcher
from allocpolicy.report.report import Report
from allocpolicy.storage import directories

SKIPPED, FAILED = "skipped", "failed"
_SIZES = (
    *("peak_bytes", "promised_bytes", "reserved_bytes"),
    *("headroom_bytes", "free_bytes", "free_after_bytes"),
)
_REMARKS = "remarks"  # no field of data: they are in the reason


def _change(row: Data) -> str:
    """Return what becomes of a disk."""
    outcome = str(row["outcome"])
    if row.get("mode") == "stamped":
        return "would stamp" if outcome == "planned" else "stamped"
    return "would change" if outcome == "planned" else outcome


def _why(row: Data) -> str:
    """Return what is done, and what isn't as it was requested."""
    steps, reason = row.get("steps"), said(row.get("reason"))
    done = [str(one) for one in steps] if isinstance(steps, list) else []
    if (row["outcome"], row["mode"]) == ("changed", Mode.STAGED):
        done = ["rewritten", *(one for one in done if one.startswith("record "))]
    if done and reason.startswith(AS_REQUESTED):
        remarks = row.get(_REMARKS)
        done += remarks if isinstance(remarks, list) else []
    else:
        done.append(reason)
    text, disk = "; ".join(done), str(row["disk"])
    text = text.replace(f"image {disk}: ", "").replace(f" the file {disk}", " the disk")
    text = text.replace(f" {disk}", " the disk")
    text = text.removeprefix(f"{disk}: ")  # it is in a column of its own
    return brief.reason(text)


_CHANGE = column("change", field="outcome", cell=_change)
_POLICY = column("policy", field="strategy")
_SIZE = size("size", field="virtual_size")
_TAKEN = size("taken", field="actual_size")
# What a dry run says instead of what is taken, which is not known before.
_PLANNED = (size("needs", field="peak_bytes"), size("left", field="free_after_bytes"))
_WHY = sentence("why", field="reason", cell=_why)
_DISK = column("disk")


class Changes(Lister):
    """A command that changes disks, and has a row for each."""

    fields = (
        *("disk", "outcome", "changed", "strategy", "mode", "format", "virtual_size"),
        *("actual_size", "mapping", "allocation", "guaranteed", "verdict", "reason"),
        *("steps", *_SIZES),
    )
    columns = (_CHANGE, _POLICY, _SIZE, _TAKEN, *_PLANNED, _WHY, _DISK)

    def shown(self, arguments: argparse.Namespace) -> tuple[Column, ...]:
        taken = _PLANNED if arguments.dry_run else (_TAKEN,)
        disk = path("disk", named=getattr(arguments, "disks", ()))
        return (_CHANGE, _POLICY, _SIZE, *taken, _WHY, disk)

    def listed(
        self, rows: Sequence[Data], arguments: argparse.Namespace
    ) -> Iterable[Data]:
        if not rows:
            self.summary = NOTHING_TO_DO
        return rows

    def together(
        self, wanted: Sequence[Change], *, policy: Policy, watch: Watcher
    ) -> list[Data]:
        """Change all disks of a VM, or none; return their rows.

        Where that fails, those that weren't done have failed, and say why.
        """
        done: dict[str, Data] = {}

        def note(report: Report) -> None:
            done[os.path.realpath(report.disk)] = of(report)

        try:
            reports = apply_all(wanted, policy=policy, watch=watch, done=note)
        except Exception as error:  # noqa: BLE001  (what is done has its row)
            self.fail(error)
            others = failed([one.disk for one in wanted], error)
            return [done.get(os.path.realpath(str(x["disk"])), x) for x in others]
        return [of(one) for one in reports]

    def note_changes(self, rows: Iterable[Data], arguments: argparse.Namespace) -> None:
        """Have the exit status tell of changes; a failure's stays."""
        changed = any(row["changed"] for row in rows)
        status = detailed_exitcode.of(arguments, changed=changed)
        self.exit_status = self.exit_status or status


def of(report: Report) -> Data:
    """Return the row of a report; in a dry run nothing of it is the disk's of today."""
    seen, verdict = report.observed, report.verdict
    return {
        "disk": str(report.disk),
        "outcome": _outcome(report),
        "changed": report.changed,
        "strategy": report.effective.strategy,
        "mode": str(report.mode),
        "format": str(report.format),
        "virtual_size": report.virtual_size,
        "actual_size": seen.actual_size if seen else None,
        "mapping": str(seen.mapping) if seen else None,
        "allocation": str(seen.allocation) if seen else None,
        "guaranteed": seen.guaranteed if seen else None,
        "verdict": str(verdict.judgement) if verdict else None,
        "reason": report.effective_reason,
        "steps": list(report.steps),
        _REMARKS: list(report.remarks),
        **{name: getattr(report, name) for name in _SIZES},
    }


def left(disk: Path, outcome: str, *, reason: str) -> Data:
    """Return the row of a disk that was skipped, or that failed."""
    row: dict[str, object] = dict.fromkeys(Changes.fields)
    path = os.path.normpath(directories.absolute(disk))
    row |= {"disk": path, "outcome": outcome, "changed": False}
    return row | {"reason": reason, "steps": []}


def failed(disks: Iterable[Path], error: Exception) -> list[Data]:
    """Return the rows of disks that are not as was wanted, for one reason."""
    return [left(one, FAILED, reason=str(error)) for one in disks]


def told_once(rows: list[Data]) -> list[Data]:
    """Leave out that a disk was skipped where it was reached by the one below it."""
    done = {row["disk"] for row in rows if row["outcome"] != SKIPPED}
    return [row for row in rows if row["outcome"] != SKIPPED or row["disk"] not in done]


def _outcome(report: Report) -> str:
    """Return what became of a disk; a change of its stamp is one."""
    if not report.changed:
        return "unchanged"
    return "planned" if report.dry_run else "changed"
