"""``allocpolicy apply``: bring existing disks to their policy."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from allocpolicy.cli import choice, disk_format, progress
from allocpolicy.cli.cells import blanked, lines
from allocpolicy.cli.command import Lister, Row
from allocpolicy.contract.plan import Mode
from allocpolicy.contract.policy import Policy
from allocpolicy.operations import snapshots
from allocpolicy.operations.change import Change, apply
from allocpolicy.report.report import Report


class Apply(Lister):
    """Bring existing disks to the policy of their stamp or to a given one.

    No data is lost. A disk that already conforms is left alone. What can be done in
    place is done in place; otherwise the disk is rewritten beside itself and exchanged,
    which requires that nobody has it open. Storage is given back only with --thin.
    Every disk is tried and has a row; each failure is also told on stderr, and the exit
    status is that of the first.
    """

    columns = (
        "disk",
        "outcome",
        "strategy",
        "mode",
        "mapping",
        "allocation",
        "guaranteed",
        "verdict",
        "reason",
        "steps",
    )
    state = "every disk is whole; inspect says whether the last one was changed"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "disks", type=Path, nargs="+", metavar="DISK", help="a disk"
        )
        disk_format.add_option(parser)
        choice.add_options(parser)
        parser.add_argument(
            "--chain",
            action="store_true",
            help="change the topmost overlay on each disk instead, such as an external"
            " snapshot in the disk's directory; without a policy of its own it gets"
            " that of the nearest disk below it",
        )
        parser.add_argument(
            "--thin",
            action="store_true",
            help="give back storage that the policy does not ask for",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="show the plans; change nothing"
        )

    def rows(self, arguments: argparse.Namespace) -> list[Row]:
        policy, rows = self.policy(arguments), []
        first, *others = arguments.disks
        change = Change(
            disk=first,
            format=arguments.disk_format,
            force=arguments.force,
            disk_role=arguments.disk,
            flavor=choice.flavor(arguments, alone=True),
            flavors=choice.recorded(arguments),
            extra_specs=choice.extra_specs(arguments),
            allow_thin=arguments.thin,
            dry_run=arguments.dry_run,
        )
        with progress.shown() as watch:
            for one in (change, *(replace(change, disk=disk) for disk in others)):
                try:
                    if arguments.chain:
                        one = _on_top(one, policy=policy)  # noqa: PLW2901
                    rows.append(_row(apply(one, policy=policy, watch=watch)))
                except Exception as error:  # noqa: BLE001  (the other disks' turn)
                    self.fail(error)
                    rows.append(_failed(one.disk, reason=str(error)))
        return blanked(rows, arguments=arguments)


def _on_top(change: Change, *, policy: Policy) -> Change:
    """Return the change of the topmost overlay instead of the disk below it."""
    top = snapshots.topmost(change.disk, policy=policy)
    found = top != change.disk
    return replace(change, disk=top, chain=True, found=found)


def _row(report: Report) -> Row:
    seen = report.observed or report.before
    assert seen is not None
    verdict = report.verdict
    return (
        str(report.disk),
        _outcome(report),
        report.effective.strategy,
        str(report.mode),
        str(seen.mapping),
        str(seen.allocation),
        seen.guaranteed,
        str(verdict.judgement) if verdict else None,
        report.effective_reason,
        lines(report.steps),
    )


def _outcome(report: Report) -> str:
    """Return what became of a disk; ``unchanged`` may still mean a new stamp."""
    if report.mode is Mode.NOTHING:
        return "unchanged"
    return "planned" if report.observed is None else "changed"


def _failed(disk: Path, *, reason: str) -> Row:
    said = {"disk": str(disk), "outcome": "failed", "reason": reason}
    return tuple(said.get(name) for name in Apply.columns)
