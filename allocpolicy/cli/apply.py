"""``allocpolicy apply``: bring existing disks to their policy."""

from __future__ import annotations

import argparse
from pathlib import Path

from allocpolicy.cli import progress
from allocpolicy.cli.command import (
    Lister,
    add_disk_format,
    add_flavor_options,
    chosen_flavor,
    disk_format,
    given_extra_specs,
    lines,
)
from allocpolicy.contract.strategy import DiskRole
from allocpolicy.errors import Error
from allocpolicy.operations.change import Change, apply
from allocpolicy.report.report import Report

COLUMNS = (
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


class Apply(Lister):
    """Bring existing disks to a policy, their stamp's or a given one; nothing is lost.

    A disk that is as it should be is left alone. What can be done in place is; else the
    disk is rewritten beside itself and exchanged, which takes that nobody has it open.
    Storage is given back with --thin only. Every disk is tried; the exit status is that
    of the first that failed.
    """

    # cliff's --format is the long name of -f; the disk's format takes it over.
    conflict_handler = "resolve"
    state = "every disk is whole; one that was being changed is as it was"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the disks and what is asked of them."""
        parser.add_argument("disks", type=Path, nargs="+", metavar="DISK")
        add_disk_format(parser)
        add_flavor_options(parser)
        parser.add_argument(
            "--thin",
            action="store_true",
            help="give storage back where the policy does not ask for it",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="show the plans; touch nothing"
        )

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
        """Apply the policy to each disk in turn."""
        policy, rows = self.policy(parsed_args), []
        flavor = chosen_flavor(parsed_args)
        extra_specs = given_extra_specs(parsed_args)
        with progress.shown() as watch:
            for disk in parsed_args.disks:
                change = Change(
                    disk=disk,
                    format=disk_format(parsed_args),
                    disk_role=DiskRole(parsed_args.disk),
                    flavor=flavor,
                    extra_specs=extra_specs,
                    allow_thin=parsed_args.thin,
                    dry_run=parsed_args.dry_run,
                )
                try:
                    rows.append(_row(apply(change, policy=policy, watch=watch)))
                except Error as error:
                    self.fail(error)
        return COLUMNS, rows


def _row(report: Report) -> tuple[object, ...]:
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
