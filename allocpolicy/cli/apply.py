"""``allocpolicy apply``: bring existing disks to their policy."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from allocpolicy.cli import changes
from allocpolicy.cli.changes import Changes
from allocpolicy.cli.options import (
    choice,
    detailed_exitcode,
    disk_format,
    disk_map,
    disk_paths,
)
from allocpolicy.cli.screens.columns import Data
from allocpolicy.cli.streams import progress
from allocpolicy.contract.policy import Policy
from allocpolicy.errors import ImageError, InvalidRequest
from allocpolicy.execute.foreseen import Rehearsal
from allocpolicy.operations import fleet, snapshots
from allocpolicy.operations.change import apply
from allocpolicy.operations.change_order import Change
from allocpolicy.operations.fleet import Member
from allocpolicy.operations.given import Given
from allocpolicy.progress import Watcher
from allocpolicy.record import replace
from allocpolicy.resolve import labels
from allocpolicy.resolve.disk_map import DiskMap


class Apply(Changes):
    """Bring existing disks to the policy of their stamp or to a given one.

    No data is lost. A disk that already conforms is left alone. What can be done in
    place is done in place; otherwise the disk is rewritten beside itself and exchanged,
    which requires that nobody has it open. Storage is given back only with --thin.
    Every disk is tried and has a row; each failure is also told on stderr, and the exit
    status is that of the first. In a directory, disks without a stamp are skipped,
    unless both a policy and --disk-format are given; base images are no disks.
    """

    state = "every disk is whole; inspect says whether the last one was changed"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        disk_paths.add_argument(parser, "disks", metavar="DISK", nargs="+")
        disk_format.add_option(parser)
        disk_map.add_option(parser)
        choice.add_options(parser)
        choice.add_labels(parser, removes=True)
        parser.add_argument(
            "--drifted",
            action="store_true",
            help="change only disks that an audit finds drifted, outdated or pending;"
            " with --chain also those that are uncovered",
        )
        parser.add_argument(
            "--chain",
            action="store_true",
            help="change the topmost overlay on each disk instead, such as an external"
            " snapshot in the disk's directory; without a policy of its own it gets"
            " that of the nearest disk below it",
        )
        parser.add_argument(
            "--thin",
            action="store_true",
            help="give back storage that the policy does not ask for",
        )
        parser.add_argument(
            "--together",
            action="store_true",
            help="all disks or none, as for those of a VM: each is held and planned,"
            " and the space for all of them looked for, before the first is changed",
        )
        parser.add_argument(
            "--dry-run", action="store_true", help="show the plans; change nothing"
        )
        detailed_exitcode.add_option(parser)

    def rows(self, arguments: argparse.Namespace) -> list[Data]:
        policy, change = self.policy(arguments), _asked(arguments)
        found = self._members(arguments, policy=policy, change=change)
        if arguments.together:
            rows = self._together(found, arguments, policy=policy, change=change)
            return self._ended(rows, arguments)
        with progress.shown() as watch:
            rows = [
                self._row(
                    one, change, chain=arguments.chain, policy=policy, watch=watch
                )
                for one in found
            ]
        return self._ended(rows, arguments)

    def _row(
        self,
        member: Member,
        change: Change,
        *,
        chain: bool,
        policy: Policy,
        watch: Watcher,
    ) -> Data:
        """Change one disk; return what became of it, a failure too."""
        if member.skipped is not None:
            return changes.left(member.disk, changes.SKIPPED, reason=member.skipped)
        disk = member.disk
        try:
            one = self._wanted(member, change, chain=chain, policy=policy)
            disk = one.disk
            return changes.of(apply(one, policy=policy, watch=watch))
        except Exception as error:  # noqa: BLE001  (the other disks' turn)
            self.fail(error)
            return changes.left(disk, changes.FAILED, reason=str(error))

    def _ended(self, rows: list[Data], arguments: argparse.Namespace) -> list[Data]:
        """Return the rows, each disk once."""
        self.note_changes(rows, arguments)
        return changes.told_once(rows)

    def _together(
        self,
        found: Sequence[Member],
        arguments: argparse.Namespace,
        *,
        policy: Policy,
        change: Change,
    ) -> list[Data]:
        """Change all disks, or none of them; return their rows."""
        skipped = [one for one in found if one.skipped is not None]
        members = [one for one in found if one.skipped is None]
        rows = [
            changes.left(one.disk, changes.SKIPPED, reason=str(one.skipped))
            for one in skipped
        ]
        try:
            wanted = [
                self._wanted(one, change, chain=arguments.chain, policy=policy)
                for one in members
            ]
        except Exception as error:  # noqa: BLE001  (each has its row)
            self.fail(error)
            return [*rows, *changes.failed((one.disk for one in members), error)]
        with progress.shown() as watch:
            return [*rows, *self.together(wanted, policy=policy, watch=watch)]

    def _wanted(
        self, member: Member, change: Change, *, chain: bool, policy: Policy
    ) -> Change:
        """Return what is wanted of one disk.

        :raises ImageError: when it can't be looked at.
        """
        if member.failed is not None:
            raise ImageError(member.disk, member.failed)
        one = _change(member, change)
        return _on_top(one, policy=policy) if chain else one

    def _members(
        self, arguments: argparse.Namespace, *, policy: Policy, change: Change
    ) -> tuple[Member, ...]:
        """Return the disks to be changed.

        :raises InvalidRequest: when a policy is given for disks that drifted.
        """
        mapped = disk_map.read(arguments, policy=policy)
        if mapped is not None and arguments.chain:
            raise InvalidRequest("--chain goes by the policy below: leave --map out")
        chosen = choice.given(arguments, policy=policy, alone=True)
        if arguments.drifted and (chosen or mapped) is not None:
            raise InvalidRequest(
                "--drifted goes by each disk's own policy: leave --strategy, --flavor,"
                " --extra-spec and --map out"
            )
        given: Given | DiskMap | None = mapped
        if chosen is not None and change.format is not None:
            given = Given(choice=chosen, format=change.format, force=change.force)
        with progress.shown(counted=True) as watch:
            found = fleet.members(
                arguments.disks,
                policy=policy,
                given=given,
                flavors=change.flavors,
                drifted=arguments.drifted,
                chain=arguments.chain,
                watch=watch,
            )
        real = (Path(os.path.realpath(one.disk)) for one in found)
        disk_map.tell_unused(mapped, real)
        return found


def _asked(arguments: argparse.Namespace) -> Change:
    """Return what is wanted of each disk, without the disk."""
    return Change(
        disk=Path(),
        format=arguments.disk_format,
        force=arguments.force,
        disk_role=arguments.disk,
        flavor=choice.flavor(arguments, alone=True),
        flavors=choice.recorded(arguments),
        extra_specs=choice.extra_specs(arguments),
        labels=labels.parse(arguments.label),
        allow_thin=arguments.thin,
        dry_run=arguments.dry_run,
        rehearsal=Rehearsal(),
    )


def _change(member: Member, change: Change) -> Change:
    """Return what is wanted of one disk."""
    entry = member.entry
    if entry is None:
        format = None if member.stamped else change.format
        return replace(change, disk=member.disk, format=format)
    return replace(
        change,
        disk=member.disk,
        format=entry.format,
        force=entry.force,
        disk_role=entry.disk_role,
        flavor=entry.flavor,
        extra_specs=entry.extra_specs,
    )


def _on_top(change: Change, *, policy: Policy) -> Change:
    """Return the change of the topmost overlay instead of the disk below it."""
    top = snapshots.topmost(change.disk, policy=policy)
    found = top != change.disk
    return replace(change, disk=top, chain=True, found=found)
