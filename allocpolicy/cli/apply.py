"""``allocpolicy apply``: bring existing disks to their policy."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from allocpolicy.cli import choice, disk_format, progress
from allocpolicy.cli.cells import lines
from allocpolicy.cli.command import Lister, Row
from allocpolicy.errors import Error
from allocpolicy.operations.change import Change, apply
from allocpolicy.report.report import Report


class Apply(Lister):
    """Bring existing disks to the policy of their stamp or to a given one.

    No data is lost. A disk that already conforms is left alone. What can be done in
    place is done in place; otherwise the disk is rewritten beside itself and exchanged,
    which requires that nobody has it open. Storage is given back only with --thin.
    Every disk is tried; the exit status is that of the first failure.
    """

    columns = (
        "disk",
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
            disk_role=arguments.disk,
            flavor=choice.flavor(arguments),
            extra_specs=choice.extra_specs(arguments),
            allow_thin=arguments.thin,
            dry_run=arguments.dry_run,
        )
        with progress.shown() as watch:
            for one in (change, *(replace(change, disk=disk) for disk in others)):
                try:
                    rows.append(_row(apply(one, policy=policy, watch=watch)))
                except Error as error:
                    self.fail(error)
        return rows


def _row(report: Report) -> Row:
    seen = report.observed or report.before
    assert seen is not None
    verdict = report.verdict
    return (
        str(report.disk),
        report.effective.strategy,
        str(report.mode),
        str(seen.mapping),
        str(seen.allocation),
        seen.guaranteed,
        str(verdict.judgement) if verdict else None,
        report.effective_reason,
        lines(report.steps),
    )
