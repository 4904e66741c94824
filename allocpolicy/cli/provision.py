"""``allocpolicy provision``: make a new disk under the policy of its flavor."""

from __future__ import annotations

import argparse
from pathlib import Path

from allocpolicy.cli import access, progress, size
from allocpolicy.cli.command import (
    ShowOne,
    add_flavor_options,
    chosen_flavor,
    given_extra_specs,
)
from allocpolicy.cli.report import shown
from allocpolicy.contract.facts import DiskFormat
from allocpolicy.contract.strategy import DiskRole
from allocpolicy.images.base_image import FORMATS
from allocpolicy.operations.provision import Order, provision


class Provision(ShowOne):
    """Make a new disk, whole or not at all, and show what it is."""

    # cliff's --format is the long name of -f; the disk's format takes it over.
    conflict_handler = "resolve"
    state = "no unfinished disk was left behind"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add what is asked of the disk."""
        parser.add_argument("destination", metavar="DEST", help="the disk to make")
        parser.add_argument(
            "--size",
            metavar="SIZE",
            help="bytes, or 512M, 40G, 2T (1024-based); the base image's by default",
        )
        parser.add_argument("--base", type=Path, metavar="IMAGE", help="the base image")
        parser.add_argument(
            "--base-format",
            choices=FORMATS,
            help="its format; found by its content if not given, checked in any case",
        )
        parser.add_argument(
            "--format",
            dest="disk_format",
            choices=[str(one) for one in DiskFormat],
            default=str(DiskFormat.QCOW2),
            help="the disk's format (default: %(default)s)",
        )
        add_flavor_options(parser)
        parser.add_argument(
            "--dry-run", action="store_true", help="show the plan; touch nothing"
        )
        parser.add_argument(
            "--owner",
            metavar="USER:GROUP",
            help="who shall own the disk, by name or number",
        )
        parser.add_argument(
            "--mode", default="0600", help="the disk's mode bits (default: %(default)s)"
        )

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[tuple[str, ...], tuple[object, ...]]:
        """Provision and return the report."""
        order = Order(
            destination=Path(parsed_args.destination),
            virtual_size=None
            if parsed_args.size is None
            else size.parse(parsed_args.size),
            base=parsed_args.base,
            base_format=parsed_args.base_format,
            format=DiskFormat(parsed_args.disk_format),
            disk_role=DiskRole(parsed_args.disk),
            flavor=chosen_flavor(parsed_args),
            extra_specs=given_extra_specs(parsed_args),
            access=access.parse(owner=parsed_args.owner, mode=parsed_args.mode),
            dry_run=parsed_args.dry_run,
        )
        with progress.shown() as watch:
            report = provision(order, policy=self.policy(parsed_args), watch=watch)
        if not report.dry_run:
            self.state = f"the disk {report.disk} was made, and is whole"
        return shown(report, formatter=parsed_args.formatter)
