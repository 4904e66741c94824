"""A file's attributes: copied to the file that replaces it, or put back."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
from collections.abc import Collection, Mapping

from allocpolicy.record import dataclass, replace
from allocpolicy.storage import credentials, fsxattr, inode_flags, patience
from allocpolicy.storage.credentials import Capability
from allocpolicy.storage.failure import UNSUPPORTED
from allocpolicy.storage.inode_flags import InodeFlag

# XFS's own flags; those of other filesystems are inode flags as well.
_CARRIED_XFLAGS = (
    fsxattr.FS_XFLAG_REALTIME
    | fsxattr.FS_XFLAG_NODEFRAG
    | fsxattr.FS_XFLAG_FILESTREAM
    | fsxattr.FS_XFLAG_COWEXTSIZE
)


def carry_over(
    source: int, target: int, *, directory: int, without: Collection[str] = ()
) -> None:
    """Give the empty target the source's owner, inode flags, project, xattrs and mode.

    Flags include XFS's own, except for the extent-size hint: with it a reservation
    would take more than planned. ACLs and security labels are xattrs. What the target
    inherited from its directory and the source lacks (a default ACL, flags) is removed.
    The owner is set first, because quota is charged to the owner; the mode is set last,
    because chown(2) clears some of its bits.

    :param directory: an open descriptor of the directory that holds both.
    :param without: names of xattrs that the target must not have.
    :raises OSError: when one of them cannot be set: none may be lost.
    """
    status = os.fstat(source)
    os.fchown(target, status.st_uid, status.st_gid)
    _carry_flags(source, target)
    _carry_fsxattr(source, target, directory)
    names = set(os.listxattr(source)) - set(without)
    for name in set(os.listxattr(target)) - names:
        _remove(target, name)
    for name in names:
        value = os.getxattr(source, name)
        patience.asked(functools.partial(os.setxattr, target, name, value), fd=target)
    os.fchmod(target, stat.S_IMODE(status.st_mode))


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Who may use a file, and what is written on it: owner, mode and xattrs."""

    owner: tuple[int, int]
    mode: int
    xattrs: Mapping[str, bytes]


def look(fd: int) -> Seen:
    """Return the open file's attributes as they are now.

    :raises OSError: as flistxattr(2), other than for lack of support.
    """
    status = os.fstat(fd)
    try:
        xattrs = {name: os.getxattr(fd, name) for name in os.listxattr(fd)}
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        xattrs = {}
    return Seen(
        owner=(status.st_uid, status.st_gid),
        mode=stat.S_IMODE(status.st_mode),
        xattrs=xattrs,
    )


def put_back(fd: int, before: Seen) -> None:
    """Give the open file the attributes that it had; what can't be, is not.

    The owner comes first and the mode last: see `carry_over`.
    """
    with contextlib.suppress(OSError):
        now = look(fd)
        if now == before:
            return
        if now.owner != before.owner:
            os.fchown(fd, *before.owner)
        for name in now.xattrs.keys() - before.xattrs.keys():
            with contextlib.suppress(OSError):
                os.removexattr(fd, name)
        for name, value in before.xattrs.items():
            if now.xattrs.get(name) != value:
                with contextlib.suppress(OSError):
                    os.setxattr(fd, name, value)
    with contextlib.suppress(OSError):
        os.fchmod(fd, before.mode)


def sees_all() -> bool:
    """Return whether `carry_over` sees all xattrs: ``trusted.`` ones only root does.

    That takes CAP_SYS_ADMIN (xattr(7)) outside of any user namespace.
    """
    return credentials.has(Capability.CAP_SYS_ADMIN)


def _remove(fd: int, name: str) -> None:
    try:
        os.removexattr(fd, name)
    except OSError as error:
        if error.errno != errno.ENODATA:  # XFS shows an ACL under two names
            raise


def _carry_flags(source: int, target: int) -> None:
    try:
        wanted = inode_flags.read(source) & InodeFlag.CARRIED
        made = inode_flags.read(target)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        return
    if made & InodeFlag.CARRIED != wanted:
        inode_flags.write(target, made & ~InodeFlag.CARRIED | wanted)


def _carry_fsxattr(source: int, target: int, directory: int) -> None:
    try:
        wanted, made = fsxattr.read(source), fsxattr.read(target)
        around = fsxattr.read(directory)
    except OSError as error:
        if error.errno not in UNSUPPORTED | {errno.EINVAL}:
            raise
        return
    inherits = around.flags & fsxattr.FS_XFLAG_PROJINHERIT
    if inherits and wanted.project != made.project:  # linkat(2) would fail as well
        reason = f"new files get project {around.project}, not {wanted.project}"
        raise OSError(errno.EXDEV, f"the directory's {reason}")
    kept = made.flags & ~_CARRIED_XFLAGS
    carried = replace(
        made,
        flags=kept | wanted.flags & _CARRIED_XFLAGS,
        project=wanted.project,
        cow_extent_size=wanted.cow_extent_size,
    )
    if carried != made:
        fsxattr.write(target, carried)
