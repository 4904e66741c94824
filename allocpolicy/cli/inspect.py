"""``allocpolicy inspect``: what a disk is, and whether it keeps to its policy.

Or what a base image is.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allocpolicy.cli import choice, disk_format, observed, progress
from allocpolicy.cli.cells import lines, shown_labels, structured
from allocpolicy.cli.command import ShowOne
from allocpolicy.cli.enumeration import one_of
from allocpolicy.contract.facts import BackingFile
from allocpolicy.contract.policy import Policy, Version
from allocpolicy.contract.strategy import Choice
from allocpolicy.errors import FormatUnknown, ImageError, InvalidRequest
from allocpolicy.images.inspector import FORMATS
from allocpolicy.libvirt import disk_xml
from allocpolicy.operations.inspect import inspect_open, opened
from allocpolicy.report.base_inspection import BaseInspection
from allocpolicy.report.inspection import Inspection
from allocpolicy.resolve import labels
from allocpolicy.storage.failure import named
from allocpolicy.wording import format_size

if TYPE_CHECKING:
    from allocpolicy.cli.picture import Picture


class Inspect(ShowOne):
    """Show what a disk is, and whether it keeps its promise.

    Nothing is changed, and a virtual machine that has the disk open is not disturbed.
    The disk's policy is the one in its stamp; one that is given here is for a disk
    without a stamp. A file without a stamp, and without a --disk-format or a policy
    here, is looked at as a base image: its format, its size, and what a conversion
    needs.
    """

    columns = (
        *("disk", "stamp", "requested", "labels", "inherited from"),
        *observed.COLUMNS,
        *("backing_chain", "extents", "in_use", "hindrances", "verdict", "uncovered"),
        *(
            "attach with",
            "image",
            "role",
            "as a disk",
            "packed",
            "data",
            "converted copy",
        ),
        "converted from",
    )
    fields = (
        *("disk", "stamp", "observed", "verdict", "attachment"),
        *("inherited_from", "uncovered"),
        *("role", "image", "format", "packed", "virtual_size", "file_size"),
        *("actual_size", "data_bytes", "converted_bytes", "converted_from"),
    )
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

    def show(self, arguments: argparse.Namespace) -> Mapping[str, object]:
        if arguments.picture and arguments.formatter != "table":
            raise InvalidRequest("--picture works only with -f table")
        policy = self.policy(arguments)
        given = choice.given(arguments, policy=policy)
        disks_only = given or arguments.picture or arguments.libvirt_xml
        if arguments.base_format:
            if disks_only or arguments.disk_format:
                raise InvalidRequest("--base-format: a base image is no disk")
            return _base(arguments)
        try:
            return self._disk(arguments, policy=policy, given=given)
        except FormatUnknown as error:
            if disks_only:
                raise
            return _base(arguments, unknown=error)

    def _disk(
        self, arguments: argparse.Namespace, *, policy: Policy, given: Choice | None
    ) -> Mapping[str, object]:
        table = arguments.formatter == "table"
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
            elif arguments.picture or (table and self.app.stdout.isatty()):
                from allocpolicy.cli import picture

                self._picture = picture.take(disk, file=self.app.stdout)
        return found.as_document() if structured(arguments) else _summary(found)

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
            self._picture.draw()
        return status


def _base(
    arguments: argparse.Namespace, *, unknown: FormatUnknown | None = None
) -> Mapping[str, object]:
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
    return found.as_document() if structured(arguments) else _base_summary(found)


def _base_summary(found: BaseInspection) -> Mapping[str, object]:
    copy = found.converted_bytes
    rows: dict[str, object] = {"image": found.image, "role": found.role}
    rows["stamp"] = "none"
    if not found.is_certain:
        shown = f"see it with --disk-format {found.format}"
        rows["as a disk"] = f"it has no policy; {shown}"
    rows["format"] = found.format
    rows |= {"packed": found.packed} if found.packed else {}
    rows["virtual_size"] = format_size(found.virtual_size)
    rows["file_size"] = format_size(found.file_size)
    rows["actual_size"] = format_size(found.actual_size)
    rows["data"] = f"up to {format_size(found.data_bytes)}"
    rows["converted copy"] = (
        "not needed" if copy is None else f"up to {format_size(copy)}, in the cache"
    )
    if found.converted_from:
        rows["converted from"] = found.converted_from
    return rows


def _elements(found: Inspection, *, libvirt: Version | None) -> str:
    if found.attachment is None:
        raise InvalidRequest(
            f"disk {found.disk}: how it must be attached is unknown:"
            f" {found.unattachable}; name a policy with --strategy"
        )
    driver = disk_xml.driver(found.attachment, observed=found.observed, libvirt=libvirt)
    blockio = disk_xml.blockio(found.attachment, libvirt=libvirt)
    return "\n".join(filter(None, (driver, blockio)))


def _summary(found: Inspection) -> Mapping[str, object]:
    """Return the inspection for people: one value a row."""
    seen, stamp = found.observed, found.stamp
    rows: dict[str, object] = {"disk": found.disk, "stamp": "none"}
    if stamp:
        effective = stamp.effective
        chosen = [f"{name} = {value}" for name, value in effective.options.items()]
        rows["stamp"] = lines([effective.strategy, *chosen])
        if stamp.requested != effective:
            rows["requested"] = stamp.requested.strategy
        if given := labels.effective(stamp.asked):
            rows["labels"] = shown_labels(given)
    rows |= {"inherited from": found.inherited_from} if found.inherited_from else {}
    rows |= observed.rows(seen)
    if seen.backing_chain:
        rows["backing_chain"] = lines(map(_backing, seen.backing_chain))
    if seen.extents:
        rows["extents"] = f"{seen.extents.count} in {seen.extents.fragments} fragments"
    rows["in_use"] = seen.in_use
    rows["hindrances"] = lines(seen.hindrances) or "-"
    return rows | _judged(found)


def _judged(found: Inspection) -> dict[str, object]:
    rows: dict[str, object] = {}
    if found.verdict:
        rows["verdict"] = f"{found.verdict.judgement}: {found.verdict.reason}"
    if found.uncovered:
        rows["uncovered"] = found.uncovered
    if found.attachment:
        rows["attach with"] = observed.options(found.attachment)
    elif found.verdict:
        rows["attach with"] = f"unknown: {found.unattachable}"
    return rows


def _backing(one: BackingFile) -> str:
    return f"{one.path} ({one.problem or one.format})"
