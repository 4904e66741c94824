"""``allocpolicy provision``: create a disk under the policy of its flavor."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from allocpolicy import size
from allocpolicy.cli.command import Row, ShowOne
from allocpolicy.cli.options import (
    access,
    choice,
    detailed_exitcode,
    disk_format,
    number,
)
from allocpolicy.cli.options.enumeration import one_of
from allocpolicy.cli.screens import report
from allocpolicy.cli.screens.columns import Data
from allocpolicy.cli.streams import failure, progress
from allocpolicy.contract.facts import DiskFormat
from allocpolicy.errors import InvalidRequest
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
            "destination",
            type=Path,
            nargs="?",
            metavar="DEST",
            help="the disk to create",
        )
        parser.add_argument(
            "--batch",
            type=Path,
            metavar="FILE",
            help="create many disks, each an object in a line of JSON, or in a list in"
            " YAML; -: standard input; the other options are the defaults of all, and"
            " what becomes of each is printed as a line of JSON",
        )
        parser.add_argument(
            "--jobs",
            type=number.at_least_one,
            metavar="N",
            help="of --batch: how many processes create disks (default: four per core)",
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

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[tuple[str, ...], Row]:
        """Create the disk, or those of a batch, which prints its results itself.

        :raises InvalidRequest: when there is neither, or both.
        """
        if parsed_args.batch is not None:
            self._create_many(parsed_args)
            return (), ()
        if parsed_args.destination is None:
            raise InvalidRequest("give DEST, the disk to create, or --batch FILE")
        if parsed_args.jobs is not None:
            raise InvalidRequest("--jobs has no effect without --batch")
        return super().take_action(parsed_args)

    def _create_many(self, arguments: argparse.Namespace) -> None:
        from allocpolicy.cli.batch import run

        run.check(arguments)
        batch, policy = run.Batch(), self.policy(arguments)
        debug = bool(self.app_args and self.app_args.debug)
        try:
            batch.run(arguments, policy=policy, debug=debug)
        except BrokenPipeError as error:
            failure.tell(self.named, f"{failure.why_unwritten(error)}; {batch.state}")
            raise
        except OSError:
            self.is_done = True  # what failed is the output
            raise
        finally:
            self.state = batch.state
        changed = detailed_exitcode.of(arguments, changed=batch.has_changed)
        self.exit_status = batch.exit_status or changed

    def produce_output(
        self,
        parsed_args: argparse.Namespace,
        column_names: Sequence[str],
        data: Sequence[Any],
    ) -> int:
        """Print what the disk is."""
        if parsed_args.batch is not None:
            return 0
        return super().produce_output(parsed_args, column_names, data)

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
