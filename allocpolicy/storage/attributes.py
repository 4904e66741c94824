"""Carrying a file's attributes over to the one that takes its place."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection

from allocpolicy.storage import fsxattr, inode_flags
from allocpolicy.storage.failure import UNSUPPORTED
from allocpolicy.storage.inode_flags import InodeFlag

# Of xfs; those that the other filesystems have are inode flags, too.
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

    Flags include xfs's own, but not the extent-size hint, of which a reservation would
    take more than was planned; ACLs and security labels are xattrs. What the target has
    from its directory and the source has not (a default ACL, flags) goes. The owner is
    set first, because quota is charged to it, and the mode last, as chown(2) clears
    bits of it.

    :param directory: that both are in, open.
    :param without: names of xattrs that the target must not have.
    :raises OSError: when one of them cannot be set: nothing may be lost.
    """
    status = os.fstat(source)
    os.fchown(target, status.st_uid, status.st_gid)
    _carry_flags(source, target)
    _carry_fsxattr(source, target, directory)
    names = set(os.listxattr(source)) - set(without)
    for name in set(os.listxattr(target)) - names:
        _remove(target, name)
    for name in names:
        os.setxattr(target, name, os.getxattr(source, name))
    os.fchmod(target, stat.S_IMODE(status.st_mode))


def _remove(fd: int, name: str) -> None:
    try:
        os.removexattr(fd, name)
    except OSError as error:
        if error.errno != errno.ENODATA:  # xfs has an ACL by two names
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
    if inherits and wanted.project != made.project:  # nor could it be linked there
        reason = f"new files get project {around.project}, not {wanted.project}"
        raise OSError(errno.EXDEV, f"the directory's {reason}")
    kept = made.flags & ~_CARRIED_XFLAGS
    carried = made._replace(
        flags=kept | wanted.flags & _CARRIED_XFLAGS,
        project=wanted.project,
        cow_extent_size=wanted.cow_extent_size,
    )
    if carried != made:
        fsxattr.write(target, carried)
