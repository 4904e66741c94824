"""The space of a directory that has a part of its filesystem as its own budget.

That is a project quota of ext4 or xfs (statvfs(3) answers with it for the directory,
but not for the files in it), or the limit of a btrfs subvolume's own qgroup, which
/sys/fs/btrfs shows to anybody (Linux 5.9); those of higher qgroups are not seen.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator
from pathlib import Path

from allocpolicy.record import dataclass
from allocpolicy.storage import below, fsxattr, mount, space
from allocpolicy.storage.found import reopen
from allocpolicy.storage.space import Space

# struct btrfs_ioctl_get_subvol_info_args of include/uapi/linux/btrfs.h (Linux 4.18).
_BTRFS_IOC_GET_SUBVOL_INFO = 0x81F8943C
_SUBVOL_INFO_SIZE = 504
_MAX_REFERENCED, _MAX_EXCLUSIVE = 1, 2  # BTRFS_QGROUP_LIMIT_*


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """A directory's own part of its filesystem: ``name`` is "project 42", "qgroup 0/2".

    ``project`` is the id of the files that count; ``device`` is their st_dev where a
    subvolume is what counts. ``free`` is no more than is free on the filesystem.
    """

    name: str
    space: Space
    project: int | None = None
    device: int | None = None

    def covers(self, *, project: int | None, device: int) -> bool:
        """Return whether a file counts; one whose project is unknown does."""
        if self.device is not None:
            return device == self.device
        return project is None or project == self.project


def of(directory: int) -> Budget | None:
    """Return the budget of an open directory; None where it has no limit of its own."""
    with contextlib.suppress(OSError), _readable(directory) as fd:
        if mount.type_by_magic(fd) == "btrfs":
            return _of_subvolume(fd)
        return _of_project(fd)
    return None


def space_of(directory: int) -> Space:
    """Return the space of an open directory's budget, or else of its filesystem."""
    found = of(directory)
    return found.space if found else space.of(directory)


def whole_of(directory: int) -> Space:
    """Return the space of an open directory's filesystem, whatever its budget is."""
    with contextlib.suppress(OSError), _readable(directory) as fd:
        return _whole(fd)
    return space.of(directory)


@contextlib.contextmanager
def _readable(directory: int) -> Iterator[int]:
    fd = reopen(directory, flags=os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def _of_project(fd: int) -> Budget | None:
    """Return the budget of the project that new files inherit.

    Only root may read the quota; others see it in what statvfs(3) answers elsewhere.
    """
    project = project_of(fd)
    if not project or not fsxattr.read(fd).flags & fsxattr.FS_XFLAG_PROJINHERIT:
        return None
    from allocpolicy.storage import quota
    from allocpolicy.storage.quota import QuotaType

    own, whole = space.of(fd), _whole(fd)
    limits = quota.read(fd, kind=QuotaType.PROJECT, id=project)
    limited = limits is not None and (limits.soft_limit or limits.hard_limit)
    if not limited and own.size >= whole.size:
        return None
    return Budget(name=f"project {project}", space=_within(own, whole), project=project)


def project_of(fd: int) -> int | None:
    """Return an open file's project id; 0 is none, None where it can't be told."""
    try:
        return fsxattr.read(fd).project
    except OSError:
        return None


def _whole(fd: int) -> Space:
    """Return the filesystem's space, as its mount point has it.

    The same as the directory's, if that is hidden.
    """
    with contextlib.suppress(OSError):
        top = os.open(mount.of(fd).point, os.O_PATH | os.O_CLOEXEC)
        try:
            if os.fstat(top).st_dev == os.fstat(fd).st_dev:
                return space.of(top)
        finally:
            os.close(top)
    return space.of(fd)


def _within(own: Space, whole: Space) -> Space:
    """Return a budget's space: what isn't free on the filesystem isn't free in it."""
    return Space(
        size=own.size,
        used=own.used,
        free=max(0, min(own.free, whole.free)),
        reserved_blocks=0,
    )


def _of_subvolume(fd: int) -> Budget | None:
    """Return the budget of the btrfs subvolume that the directory is in."""
    answer = fcntl.ioctl(fd, _BTRFS_IOC_GET_SUBVOL_INFO, bytes(_SUBVOL_INFO_SIZE))
    (subvolume,) = struct.unpack_from("=Q", answer)
    place = below.of_btrfs(fd) / "qgroups" / f"0_{subvolume}"
    if not place.is_dir():
        return None
    flags = _number(place / "limit_flags")
    parts = [
        (_number(place / f"max_{name}"), _number(place / name))
        for flag, name in (
            (_MAX_REFERENCED, "referenced"),
            (_MAX_EXCLUSIVE, "exclusive"),
        )
        if flags & flag
    ]
    if not parts:
        return None
    limit, used = min(parts, key=lambda part: part[0] - part[1])
    reserved = _number(place / "rsv_data")
    own = Space(
        size=limit,
        used=used + reserved,
        free=limit - used - reserved,
        reserved_blocks=0,
    )
    return Budget(
        name=f"qgroup 0/{subvolume}",
        space=_within(own, space.of(fd)),
        device=os.fstat(fd).st_dev,
    )


def _number(path: Path) -> int:
    return int(path.read_text())
