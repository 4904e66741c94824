"""Writing and removing the stamp of an existing disk, and nothing else of it.

Both are done under the disk's lock, and never while it is being rewritten. A virtual
machine that has the disk open doesn't notice: a stamp is an xattr, and no content. What
is recorded is not made true here: the verdict says whether it is.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from allocpolicy.contract.facts import DiskFormat
from allocpolicy.contract.policy import Policy
from allocpolicy.errors import ImageError, Unsupported
from allocpolicy.images import existing, image_file
from allocpolicy.images import stamp as stamps
from allocpolicy.images.existing import Disk
from allocpolicy.images.stamp import Stamp
from allocpolicy.operations import held_disk, logged
from allocpolicy.operations.inspect import inspect, inspect_open
from allocpolicy.record import dataclass, field, replace
from allocpolicy.report import recording
from allocpolicy.report.inspection import Inspection
from allocpolicy.resolve import labels
from allocpolicy.resolve.selection import Selection
from allocpolicy.storage import directories
from allocpolicy.storage.failure import named

_NO_XATTRS = "its filesystem has no user xattrs: no stamp can be recorded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamping:
    """The policy that a disk is to have, and its format if it has no stamp.

    Without a ``selection`` it keeps the one in its stamp. ``labels`` add to or override
    those of the stamp; an empty one removes the stamp's. ``force``: it is raw, whatever
    its content looks like. ``kept``: a stamp that is there stays as it is.
    ``dry_run``: find out what would be recorded, and record nothing.
    """

    disk: Path
    selection: Selection | None
    labels: Mapping[str, str] = field(default_factory=dict)
    format: DiskFormat | None = None
    force: bool = False
    kept: bool = False
    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What a disk is with its stamp, and what was written; nothing if it was there.

    After a dry run the verdict is by the stamp that would be written.
    """

    inspection: Inspection
    steps: tuple[str, ...]


def record(stamping: Stamping, *, policy: Policy) -> Recorded:
    """Record the policy on the disk; return what the disk is, judged by it.

    A stamp that is there already is not written again. A file that is no disk of its
    format gets no stamp; a disk that doesn't keep the promise gets it, and the verdict
    says so. The format in a stamp stays.

    :raises ImageError: when it can't be opened, is malformed, is being rewritten, or
        its format is unknown or contradicts its content.
    :raises Unsupported: when the filesystem can't record it.
    :raises Error: for anything else; the disk has its old stamp or the new one.
    """
    path = stamping.disk
    with (
        logged.change("stamp set", directories.absolute(path)) as change,
        named(path, action="record its stamp"),
        held_disk.locked(path, policy=policy, dry_run=stamping.dry_run),
    ):
        with existing.opened(
            path, declared=stamping.format, force=stamping.force
        ) as disk:
            held_disk.refuse_prepared(disk, policy=policy)
            stamp = _stamp(stamping, disk)
            strategy = stamp.effective.strategy
            # it is one of its format
            found = inspect_open(disk, policy=policy, given=stamp.effective)
            steps = recording.lines(disk.stamp, stamp)
            if stamping.dry_run:
                if stamp != disk.stamp:
                    _check(stamp, disk)
                return Recorded(inspection=found, steps=steps)
            seen = found.observed
            change.is_of(logged.state(seen, disk.stamp), strategy=strategy)
            if stamp != disk.stamp:
                _write(stamp, disk, change)
                change.is_done(logged.state(seen, stamp), strategy=strategy)
        return Recorded(inspection=inspect(path, policy=policy), steps=steps)


def _check(stamp: Stamp, disk: Disk) -> None:
    """Check that `_write` would succeed.

    :raises Error: as it does.
    """
    existing.check_writable(disk)
    stamps.encoded(stamp)
    if not stamps.is_supported(disk.fd):
        raise Unsupported(disk.path, _NO_XATTRS)


def _write(stamp: Stamp, disk: Disk, change: logged.Change) -> None:
    with existing.writable(disk) as fd:
        change.begins()
        if stamps.write(fd, stamp) is None:
            raise Unsupported(disk.path, _NO_XATTRS)
        os.fsync(fd)


def _stamp(stamping: Stamping, disk: Disk) -> Stamp:
    """Return what is to be recorded.

    :raises ImageError: when there is no policy to keep.
    :raises InvalidRequest: when the labels can't be.
    """
    if stamping.kept and disk.stamp is not None:
        return disk.stamp
    given = labels.changed(disk.stamp, stamping.labels)
    if stamping.selection is not None:
        choice = stamping.selection.choice
        return Stamp(
            requested=choice,
            effective=choice,
            format=disk.format,
            asked=labels.given(stamping.selection.asked, given),
        )
    if disk.stamp is None:
        reason = (
            "it has no stamp; choose its policy as well, for example with --strategy"
        )
        raise ImageError(stamping.disk, reason)
    return replace(disk.stamp, asked=labels.given(disk.stamp.asked, given))


def remove(path: Path, *, policy: Policy) -> None:
    """Remove the stamp, valid or not, from the disk, whose content stays as it is.

    :raises ImageError: when it can't be opened, has no stamp, or is being rewritten.
    :raises Error: for anything else; the disk has its stamp or none.
    """
    with (
        logged.change("stamp remove", directories.absolute(path)) as change,
        named(path, action="remove its stamp"),
        held_disk.locked(path, policy=policy, dry_run=False),
        existing.at_rest(path) as found,
        image_file.reopened(found) as image,
    ):
        disk = Disk(
            path=image.path,
            fd=image.fd,
            directory=image.directory,
            format=DiskFormat.RAW,  # as good as any: nothing is read
            stamp=None,
        )
        with existing.writable(disk) as fd:
            change.is_of(logged.recorded(_readable(disk)), strategy=None)
            if not stamps.remove(fd):
                raise ImageError(path, "it has no stamp")
            change.begins()
            os.fsync(fd)
        change.is_done(logged.recorded(None), strategy=None)


def _readable(disk: Disk) -> Stamp | None:
    """Return the stamp of a disk if it is valid."""
    with contextlib.suppress(ImageError):
        return stamps.read(disk.fd, path=disk.path)
    return None
