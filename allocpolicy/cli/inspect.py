"""``allocpolicy inspect``: what a disk is, and whether it keeps to its policy.

Or what a base image is.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allocpolicy.cli.command import ShowOne
from allocpolicy.cli.options import choice, disk_format
from allocpolicy.cli.options.enumeration import one_of
from allocpolicy.cli.screens import inspected, observed, screen
from allocpolicy.cli.screens.cells import structured
from allocpolicy.cli.screens.columns import Data
from allocpolicy.cli.streams import progress
from allocpolicy.contract.policy import Policy, Version
from allocpolicy.contract.strategy import Choice
from allocpolicy.errors import FormatUnknown, ImageError, InvalidRequest
from allocpolicy.images.formats import FORMATS
from allocpolicy.libvirt import disk_xml
from allocpolicy.operations.inspect import inspect_open, opened
from allocpolicy.report.base_inspection import BaseInspection
from allocpolicy.report.inspection import Inspection
from allocpolicy.storage.failure import named

if TYPE_CHECKING:
    from allocpolicy.cli.screens.picture import Picture


class Inspect(ShowOne):
    """Show what a disk is, and whether it keeps its promise.

    Nothing is changed, and a virtual machine that has the disk open is not disturbed.
    The disk's policy is the one in its stamp; one that is given here is for a disk
    without a stamp. A file without a stamp, and without a --disk-format or a policy
    here, is looked at as a base image: its format, its size, and what a conversion
    needs.
    """

    columns = observed.COLUMNS
    fields = (
        *("disk", "stamp", "observed", "verdict", "attachment"),
        *("inherited_from", "uncovered"),
        *("role", "image", "format", "packed", "virtual_size", "file_size"),
        *("actual_size", "data_bytes", "converted_bytes", "converted_from"),
    )
    _found: Inspection | BaseInspection
    _chosen_policy: Choice | None = None
    _picture: Picture | None = None
    _elements: str | None = None

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "path", type=Path, metavar="DISK", help="the disk, or base image"
        )
        disk_format.add_option(parser)
        parser.add_argument(
            "--base-format",
            type=one_of(FORMATS),
            choices=FORMATS,
            help="look at it as a base image of this format",
        )
        parser.add_argument(
            "--libvirt-xml",
            action="store_true",
            help="print only what belongs into its <disk> in libvirt's XML: <driver>",
        )
        parser.add_argument(
            "--picture",
            action="store_true",
            help="draw the picture even when the output is not a terminal",
        )
        choice.add_options(parser)

    def show(self, arguments: argparse.Namespace) -> Data:
        if arguments.picture and structured(arguments):
            raise InvalidRequest("--picture works only where people read: without -f")
        policy = self.policy(arguments)
        given = choice.given(arguments, policy=policy)
        disks_only = given or arguments.picture or arguments.libvirt_xml
        if arguments.base_format:
            if disks_only or arguments.disk_format:
                raise InvalidRequest("--base-format: a base image is no disk")
            return self._base(arguments)
        try:
            return self._disk(arguments, policy=policy, given=given)
        except FormatUnknown as error:
            if disks_only:
                raise
            return self._base(arguments, unknown=error)

    def _disk(
        self, arguments: argparse.Namespace, *, policy: Policy, given: Choice | None
    ) -> Data:
        read = not structured(arguments) and not arguments.columns
        with (
            named(arguments.path, action="look at the disk"),
            opened(
                arguments.path,
                format=arguments.disk_format,
                force=arguments.force,
                policy=policy,
            ) as disk,
        ):
            found = inspect_open(disk, policy=policy, given=given)
            if arguments.libvirt_xml:
                libvirt = policy.machines.libvirt
                self._elements = _elements(found, libvirt=libvirt)
            elif arguments.picture or (read and self.app.stdout.isatty()):
                from allocpolicy.cli.screens import picture

                width = screen.width(arguments.max_width)
                self._picture = picture.take(disk, width=width)
        self._found, self._chosen_policy = found, given
        return found.as_document()

    def screen(self, shown: Data, *, width: int) -> Iterator[str]:
        if isinstance(self._found, Inspection):
            return inspected.of_disk(
                self._found, given=self._chosen_policy, width=width
            )
        return inspected.of_base(self._found, width=width)

    def _base(
        self, arguments: argparse.Namespace, *, unknown: FormatUnknown | None = None
    ) -> Data:
        """Return what the file is as a base image.

        :param unknown: why it can't be looked at as a disk, if nobody said what it is.
        """
        from allocpolicy.operations.inspect_base import inspect_base

        try:
            with progress.shown() as watch:
                declared = arguments.base_format
                found = inspect_base(arguments.path, declared=declared, watch=watch)
        except ImageError as error:
            if unknown is None or error.path != unknown.path:
                raise
            reason = f"as a base image: {error.reason}; as a disk: {unknown.reason}"
            raise ImageError(error.path, reason) from error
        self._found = found
        return found.as_document()

    def produce_output(
        self,
        parsed_args: argparse.Namespace,
        column_names: Sequence[str],
        data: Sequence[Any],
    ) -> int:
        """Print the rows and the picture, or only the elements."""
        if self._elements is not None:
            print(self._elements)
            return 0
        status: int = super().produce_output(parsed_args, column_names, data)
        if self._picture is not None:
            print()
            self._picture.draw()
        return status


def _elements(found: Inspection, *, libvirt: Version | None) -> str:
    if found.attachment is None:
        raise InvalidRequest(
            f"disk {found.disk}: how it must be attached is unknown:"
            f" {found.unattachable}; name a policy with --strategy"
        )
    driver = disk_xml.driver(found.attachment, observed=found.observed, libvirt=libvirt)
    blockio = disk_xml.blockio(found.attachment, libvirt=libvirt)
    return "\n".join(filter(None, (driver, blockio)))
