"""``allocpolicy inspect``: what a disk is, and how it stands to its policy."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allocpolicy.cli import libvirt_xml, observed
from allocpolicy.cli.command import (
    STRUCTURED,
    ShowOne,
    add_flavor_options,
    given_choice,
    lines,
)
from allocpolicy.contract.facts import BackingFile, DiskFormat
from allocpolicy.errors import InvalidRequest
from allocpolicy.images import existing
from allocpolicy.operations.inspect import inspect
from allocpolicy.report.inspection import Inspection

if TYPE_CHECKING:
    from allocpolicy.cli.picture import Picture


class Inspect(ShowOne):
    """Show what a disk is, and whether it keeps its promise.

    Nothing is changed, and a virtual machine that has the disk open doesn't notice.
    Its policy is that of its stamp; one that is given here is for a disk without.
    """

    # cliff's --format is the long name of -f; the disk's format takes it over.
    conflict_handler = "resolve"
    _picture: Picture | None = None
    _element: str | None = None

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the disk."""
        parser.add_argument("path", type=Path, metavar="DISK", help="the disk")
        parser.add_argument(
            "--format",
            dest="disk_format",
            type=DiskFormat,
            choices=list(DiskFormat),
            help="its format, if it has no stamp: it is never guessed",
        )
        parser.add_argument(
            "--libvirt-xml",
            action="store_true",
            help="print only the <driver> element with which libvirt must attach it",
        )
        parser.add_argument(
            "--picture",
            action="store_true",
            help="draw the picture, too, when this is no terminal",
        )
        add_flavor_options(parser)

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[tuple[str, ...], tuple[object, ...]]:
        """Look at the disk and return what it is."""
        table = parsed_args.formatter == "table"
        if parsed_args.picture and not table:
            raise InvalidRequest("--picture goes with -f table only")
        policy = self.policy(parsed_args)
        given = given_choice(parsed_args, policy=policy)
        with existing.opened(
            parsed_args.path, declared=parsed_args.disk_format
        ) as disk:
            found = inspect(
                disk,
                given=given,
                policy=policy,
            )
            if parsed_args.libvirt_xml:
                self._element = _element(found)
            elif parsed_args.picture or (table and sys.stdout.isatty()):
                from allocpolicy.cli import picture

                self._picture = picture.take(disk)
        if parsed_args.formatter in STRUCTURED:
            document = found.as_document()
            return tuple(document), tuple(document.values())
        rows = _summary(found)
        return tuple(rows), tuple(rows.values())

    def produce_output(
        self,
        parsed_args: argparse.Namespace,
        column_names: Sequence[str],
        data: Sequence[Any],
    ) -> int:
        """Print the rows and the picture, or only the element."""
        if self._element is not None:
            print(self._element)
            return 0
        status: int = super().produce_output(parsed_args, column_names, data)
        if self._picture is not None:
            self._picture.draw()
        return status


def _element(found: Inspection) -> str:
    if found.attachment is None:
        reason = found.verdict.reason if found.verdict else "it has no stamp"
        raise InvalidRequest(
            f"disk {found.disk}: how it must be attached is not known: {reason}; say a"
            " policy with --strategy"
        )
    return libvirt_xml.driver(found.attachment, observed=found.observed)


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
    rows |= observed.rows(seen)
    if seen.backing_chain:
        rows["backing_chain"] = lines(map(_backing, seen.backing_chain))
    if seen.extents:
        rows["extents"] = f"{seen.extents.count} in {seen.extents.fragments} fragments"
    rows["in_use"] = seen.in_use
    rows["hindrances"] = lines(seen.hindrances) or "-"
    if found.verdict:
        rows["verdict"] = f"{found.verdict.judgement}: {found.verdict.reason}"
    if found.attachment:
        rows["attach with"] = observed.options(found.attachment)
    return rows


def _backing(one: BackingFile) -> str:
    return f"{one.path} ({one.problem or one.format})"
