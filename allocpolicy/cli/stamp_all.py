"""``allocpolicy stamp all``: a policy for each disk that has none, by map or domain."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from allocpolicy.cli.changes import FAILED, SKIPPED
from allocpolicy.cli.command import Lister
from allocpolicy.cli.options import choice, disk_map, disk_paths
from allocpolicy.cli.screens import brief
from allocpolicy.cli.screens.columns import Column, Data, column, path, said, sentence
from allocpolicy.cli.streams import progress
from allocpolicy.contract.policy import Policy
from allocpolicy.errors import ImageError, InvalidRequest
from allocpolicy.images import image_file
from allocpolicy.operations import fleet, stamp
from allocpolicy.operations.fleet import Member
from allocpolicy.resolve.disk_map import DiskMap, Entry
from allocpolicy.storage import directories
from allocpolicy.wording import one_line

_UNCHANGED = "it has a stamp"


def _stamp(row: Data) -> str:
    return "would stamp" if row["outcome"] == "planned" else said(row["outcome"])


_COLUMNS = (
    column("outcome", heading="STAMP", cell=_stamp),
    column("policy", field="strategy"),
    *(column("format"), column("verdict")),
    sentence("why", field="reason", cell=lambda row: brief.reason(said(row["reason"]))),
)


class StampAll(Lister):
    """Record policies on the disks that have none, and change no disk.

    For a host whose disks were made by something else: --map says which format and
    which policy each has, by patterns of paths, or else libvirt's definitions of its
    domains do. A disk that has a stamp keeps it. What no entry matches is skipped.
    Whether a disk keeps its promise is measured and told; apply brings it to its
    policy.
    """

    fields = ("disk", "outcome", "strategy", "format", "verdict", "reason")
    columns = (*_COLUMNS, column("disk"))
    state = "each disk has its stamp, or none"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        disk_paths.add_argument(parser, "paths", metavar="PATH", nargs="*")
        disk_map.add_option(parser)
        parser.add_argument(
            "--libvirt",
            metavar="URI",
            help="the formats and policies are those of the definitions of all domains;"
            " without PATH, all of their disks",
        )
        choice.add_flavors(parser)
        parser.add_argument(
            "--dry-run", action="store_true", help="show the policies; record none"
        )

    def shown(self, arguments: argparse.Namespace) -> tuple[Column, ...]:
        return (*_COLUMNS, path("disk", named=arguments.paths))

    def rows(self, arguments: argparse.Namespace) -> list[Data]:
        policy = self.policy(arguments)
        mapped = self._map(arguments, policy=policy)
        paths = arguments.paths or [one.glob.head for one in mapped.entries]
        with progress.shown(counted=True) as watch:
            found = fleet.members(
                dict.fromkeys(paths), policy=policy, given=mapped, watch=watch
            )
        if arguments.map is not None:
            real = (Path(os.path.realpath(one.disk)) for one in found)
            disk_map.tell_unused(mapped, real)
        return [
            self._row(one, policy=policy, dry_run=arguments.dry_run) for one in found
        ]

    def _map(self, arguments: argparse.Namespace, *, policy: Policy) -> DiskMap:
        mapped = disk_map.read(arguments, policy=policy)
        if (mapped is None) is (arguments.libvirt is None):
            raise InvalidRequest("say the policies: by --map FILE, or by --libvirt URI")
        if mapped is not None:
            if not arguments.paths:
                raise InvalidRequest("name disks or directories, for --map")
            return mapped
        from allocpolicy.libvirt import connection
        from allocpolicy.libvirt import fleet as domains

        with connection.opened(arguments.libvirt) as host:
            host.refuse_remote()
            return domains.as_map(host, policy=policy, failed=self.fail)

    def _row(self, member: Member, *, policy: Policy, dry_run: bool) -> Data:
        if member.skipped is not None:
            return _left(member, SKIPPED, member.skipped)
        if member.stamped:
            return _left(member, "unchanged", _UNCHANGED)
        try:
            if member.failed is not None or member.entry is None:
                image_file.resolve(member.disk)  # if it isn't there, that is it
                reason = member.failed or "no entry of the map matches it"
                raise ImageError(member.disk, reason)
            return _stamped(member, member.entry, policy=policy, dry_run=dry_run)
        except Exception as error:  # noqa: BLE001  (the other disks' turn)
            self.fail(error)
            return _left(member, FAILED, str(error))


def _stamped(member: Member, entry: Entry, *, policy: Policy, dry_run: bool) -> Data:
    done = stamp.record(
        stamp.Stamping(
            disk=member.disk,
            selection=entry.selection,
            format=entry.format,
            force=entry.force,
            kept=True,  # one that it has got since, or by another name
            dry_run=dry_run,
        ),
        policy=policy,
    )
    if not done.steps:
        return _left(member, "unchanged", _UNCHANGED)
    verdict = done.inspection.verdict
    assert verdict is not None
    row = _left(member, "planned", f"by {entry.place}")
    row |= {"strategy": entry.selection.strategy, "format": str(entry.format)}
    row["verdict"] = str(verdict.judgement)
    if dry_run:
        return row
    return row | {"outcome": "stamped", "reason": one_line(verdict.reason)}


def _left(member: Member, outcome: str, reason: str) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(StampAll.fields)
    disk = os.path.normpath(directories.absolute(member.disk))
    return row | {"disk": disk, "outcome": outcome, "reason": reason}
