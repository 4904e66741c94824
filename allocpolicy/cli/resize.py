"""``allocpolicy resize``: grow a disk under its policy."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from allocpolicy import size
from allocpolicy.cli.command import ShowOne
from allocpolicy.cli.options import choice, detailed_exitcode, disk_format
from allocpolicy.cli.screens import report
from allocpolicy.cli.screens.columns import Data
from allocpolicy.cli.streams import progress
from allocpolicy.operations.change import resize
from allocpolicy.operations.change_order import Change
from allocpolicy.report.report import Report
from allocpolicy.resolve import labels


class Resize(ShowOne):
    """Grow a disk; reservation and mapping are extended to the new end.

    The guest must not be running. Growing its partitions and filesystems is up to the
    guest.
    """

    columns, fields = report.COLUMNS, report.FIELDS
    _done: Report
    state = "the disk is whole, with its old size or the new one"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("path", type=Path, metavar="DISK", help="the disk to grow")
        parser.add_argument(
            "size", metavar="SIZE", help=f"the new size, or +SIZE to add: {size.HELP}"
        )
        disk_format.add_option(parser)
        choice.add_options(parser)
        choice.add_labels(parser, removes=True)
        parser.add_argument(
            "--dry-run", action="store_true", help="show the plan; change nothing"
        )
        detailed_exitcode.add_option(parser)

    def show(self, arguments: argparse.Namespace) -> Data:
        wanted: str = arguments.size.strip()
        change = Change(
            disk=arguments.path,
            format=arguments.disk_format,
            force=arguments.force,
            virtual_size=size.parse(wanted.removeprefix("+")),
            added=wanted.startswith("+"),
            disk_role=arguments.disk,
            flavor=choice.flavor(arguments),
            extra_specs=choice.extra_specs(arguments),
            labels=labels.parse(arguments.label),
            dry_run=arguments.dry_run,
        )
        with progress.shown() as watch:
            done = resize(change, policy=self.policy(arguments), watch=watch)
        self.exit_status = detailed_exitcode.of(arguments, changed=done.changed)
        self._done = done
        return done.as_document()

    def screen(self, shown: Data, *, width: int) -> Iterator[str]:
        return report.lines(self._done, width=width)
