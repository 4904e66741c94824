"""``allocpolicy provision``: create a disk under the policy of its flavor."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from allocpolicy import size
from allocpolicy.cli.command import ShowOne
from allocpolicy.cli.options import access, choice, detailed_exitcode, disk_format
from allocpolicy.cli.options.enumeration import one_of
from allocpolicy.cli.screens import report
from allocpolicy.cli.screens.columns import Data
from allocpolicy.cli.streams import progress
from allocpolicy.contract.facts import DiskFormat
from allocpolicy.images.formats import FORMATS
from allocpolicy.operations.provision import Order, provision
from allocpolicy.report.report import Report
from allocpolicy.resolve import labels


class Provision(ShowOne):
    """Create a disk, completely or not at all, and show what it is."""

    columns, fields = report.COLUMNS, report.FIELDS
    _done: Report
    state = "no unfinished disk was left behind"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "destination", type=Path, metavar="DEST", help="the disk to create"
        )
        add_disk(parser)
        parser.add_argument(
            "--dry-run", action="store_true", help="show the plan; change nothing"
        )
        detailed_exitcode.add_option(parser)
        parser.add_argument(
            "--owner",
            metavar="USER:GROUP",
            help="the disk's owner, by name or number",
        )
        parser.add_argument(
            "--mode", default="0600", help="the disk's mode bits (default: %(default)s)"
        )

    def show(self, arguments: argparse.Namespace) -> Data:
        wanted = order(arguments)
        with progress.shown() as watch:
            done = provision(wanted, policy=self.policy(arguments), watch=watch)
        if not done.dry_run:
            self.state = f"the disk {done.disk} was created and is complete"
        disk_format.hint(wanted.destination, wanted.format)
        self.exit_status = detailed_exitcode.of(arguments, changed=done.changed)
        self._done = done
        return done.as_document()

    def screen(self, shown: Data, *, width: int) -> Iterator[str]:
        return report.lines(self._done, width=width)


def add_disk(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what a new disk is, wherever it goes."""
    parser.add_argument(
        "--size",
        metavar="SIZE",
        help=f"{size.HELP} (default: the flavor's, or the base image's)",
    )
    parser.add_argument("--base", type=Path, metavar="IMAGE", help="the base image")
    parser.add_argument(
        "--base-format",
        type=one_of(FORMATS),
        choices=FORMATS,
        help="the base image's format (default: found from its content; a given"
        " format is checked against the content); of a compressed image, or of an"
        " OVA, the format of the image in it; raw: the file's bytes as they are",
    )
    disk_format.add(
        parser,
        default=DiskFormat.QCOW2,
        help="the disk's format (default: %(default)s)",
    )
    choice.add_options(parser)
    choice.add_labels(parser)


def order(arguments: argparse.Namespace) -> Order:
    """Return what the arguments say of the disk.

    :raises InvalidRequest: (its subclasses) when one of them is wrong.
    """
    return Order(
        destination=arguments.destination,
        virtual_size=None if arguments.size is None else size.parse(arguments.size),
        base=arguments.base,
        base_format=arguments.base_format,
        format=arguments.disk_format,
        disk_role=arguments.disk,
        flavor=choice.flavor(arguments),
        extra_specs=choice.extra_specs(arguments),
        labels=labels.parse(arguments.label),
        access=access.parse(owner=arguments.owner, mode=arguments.mode),
        dry_run=arguments.dry_run,
    )
