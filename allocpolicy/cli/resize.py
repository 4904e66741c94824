"""``allocpolicy resize``: grow a disk under its policy."""

from __future__ import annotations

import argparse
from pathlib import Path

from allocpolicy.cli import progress, size
from allocpolicy.cli.command import (
    ShowOne,
    add_disk_format,
    add_flavor_options,
    chosen_flavor,
    disk_format,
    given_extra_specs,
)
from allocpolicy.cli.report import shown
from allocpolicy.contract.strategy import DiskRole
from allocpolicy.operations.change import Change, resize


class Resize(ShowOne):
    """Grow a disk; reservation and mapping are extended to the new end.

    The guest must not run. Its partitions and filesystems are its own to grow.
    """

    # cliff's --format is the long name of -f; the disk's format takes it over.
    conflict_handler = "resolve"
    state = "the disk is whole, of its old size or the new one"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the disk and its new size."""
        parser.add_argument("path", type=Path, metavar="DISK")
        parser.add_argument(
            "size", metavar="SIZE", help="bytes, or 512M, 40G, 2T (1024-based)"
        )
        add_disk_format(parser)
        add_flavor_options(parser)
        parser.add_argument(
            "--dry-run", action="store_true", help="show the plan; touch nothing"
        )

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[tuple[str, ...], tuple[object, ...]]:
        """Grow the disk and return the report."""
        change = Change(
            disk=parsed_args.path,
            format=disk_format(parsed_args),
            virtual_size=size.parse(parsed_args.size),
            disk_role=DiskRole(parsed_args.disk),
            flavor=chosen_flavor(parsed_args),
            extra_specs=given_extra_specs(parsed_args),
            dry_run=parsed_args.dry_run,
        )
        with progress.shown() as watch:
            report = resize(change, policy=self.policy(parsed_args), watch=watch)
        return shown(report, formatter=parsed_args.formatter)
