"""Carrying a file's attributes over to the one that takes its place."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection

from allocpolicy.storage import fsxattr, inode_flags
from allocpolicy.storage.failure import UNSUPPORTED
from allocpolicy.storage.inode_flags import InodeFlag


def carry_over(source: int, target: int, *, without: Collection[str] = ()) -> None:
    """Give the empty target the source's owner, inode flags, project, xattrs and mode.

    ACLs and security labels are xattrs. The owner goes first, as quota is charged to
    him, and the mode last, as chown(2) clears bits of it.

    :param without: names of xattrs that the target shall not have.
    :raises OSError: when one of them cannot be set: nothing may be lost.
    """
    status = os.fstat(source)
    os.fchown(target, status.st_uid, status.st_gid)
    _carry_flags(source, target)
    _carry_project(source, target)
    for name in os.listxattr(source):
        if name not in without:
            os.setxattr(target, name, os.getxattr(source, name))
    os.fchmod(target, stat.S_IMODE(status.st_mode))


def _carry_flags(source: int, target: int) -> None:
    flags = inode_flags.read(source) & InodeFlag.CARRIED if _has_flags(source) else 0
    if flags:
        inode_flags.add(target, InodeFlag(flags))


def _has_flags(fd: int) -> bool:
    try:
        inode_flags.read(fd)
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
        return False
    return True


def _carry_project(source: int, target: int) -> None:
    try:
        wanted = fsxattr.read(source)
        made = fsxattr.read(target)
    except OSError as error:
        if error.errno not in UNSUPPORTED | {errno.EINVAL}:
            raise
        return
    if wanted.project != made.project:
        fsxattr.write(target, made._replace(project=wanted.project))
