"""``allocpolicy audit``: every disk against its policy."""

from __future__ import annotations

import argparse
from pathlib import Path

from allocpolicy.cli import progress
from allocpolicy.cli.command import STRUCTURED, Lister, add_flavor_options, given_choice
from allocpolicy.contract.facts import DiskFormat
from allocpolicy.contract.policy import Policy
from allocpolicy.errors import DestinationError, InvalidRequest
from allocpolicy.operations import audit
from allocpolicy.operations.audit import Given
from allocpolicy.report.audit import Row

COLUMNS = ("disk", "strategy", "mapping", "allocation", "verdict", "reason")
DRIFTED = 1


class Audit(Lister):
    """Judge disks by their policies: meets, drifted or unverifiable, and why.

    A disk's policy is what its stamp says is effective. A policy that is given here is
    for disks without a stamp, and needs --format; it never goes before a stamp.
    Exit status 1: a disk has drifted.
    """

    # cliff's --format is the long name of -f; the disks' format takes it over.
    conflict_handler = "resolve"
    _status = 0

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the disks."""
        parser.add_argument(
            "paths",
            type=Path,
            nargs="+",
            metavar="PATH",
            help="a disk, or a directory of disks, gone through to its depth; files in"
            " it that have no stamp are passed over if no policy is given",
        )
        parser.add_argument(
            "--format",
            dest="disk_format",
            type=DiskFormat,
            choices=list(DiskFormat),
            help="the format of disks without a stamp: it is never guessed",
        )
        parser.add_argument(
            "--textfile",
            type=Path,
            metavar="FILE",
            help="write metrics (OpenMetrics) for node_exporter's textfile collector",
        )
        parser.add_argument(
            "--jobs",
            type=_jobs,
            metavar="N",
            help="processes that look at disks (default: one a core)",
        )
        add_flavor_options(parser)

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Run the command; a drift is an exit status of its own."""
        return super().run(parsed_args) or self._status

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
        """Return a row a disk."""
        policy = self.policy(parsed_args)
        given = _given(parsed_args, policy=policy)
        textfile = parsed_args.textfile
        if textfile is not None and not textfile.parent.is_dir():
            raise DestinationError(textfile, "its directory does not exist")
        with progress.shown(counted=True) as watch:
            found = audit.audit(
                parsed_args.paths,
                given=given,
                headroom=policy.headroom,
                disk_directories=policy.disk_directories,
                jobs=parsed_args.jobs,
                watch=watch,
            )
        if textfile is not None:
            from allocpolicy.report import metrics

            metrics.write(textfile, found)
        self._status = DRIFTED if found.drifted else 0
        nothing = None if parsed_args.formatter in STRUCTURED else "-"
        return COLUMNS, [_cells(row, nothing=nothing) for row in found.rows]


def _jobs(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ValueError(text)
    return count


def _given(arguments: argparse.Namespace, *, policy: Policy) -> Given | None:
    choice = given_choice(arguments, policy=policy)
    if choice is None:
        if arguments.disk_format is not None:
            raise InvalidRequest(
                "--format is for disks without a stamp, and they need a policy, too:"
                " --strategy NAME, --flavor or --extra-spec"
            )
        return None
    if arguments.disk_format is None:
        raise InvalidRequest(
            "a policy is for disks without a stamp; say their format with --format"
        )
    return Given(choice=choice, format=arguments.disk_format)


def _cells(row: Row, *, nothing: str | None) -> tuple[object, ...]:
    seen = row.observed
    return (
        str(row.disk),
        row.strategy or nothing,
        str(seen.mapping) if seen else nothing,
        str(seen.allocation) if seen else nothing,
        str(row.verdict.judgement),
        row.verdict.reason,
    )
