"""Disk quota for new files in a directory: quotactl_fd(2), quotactl(2).

ext4 and xfs both answer Q_GETQUOTA with struct if_dqblk of include/uapi/linux/quota.h.
quotactl_fd(2) came with Linux 5.14; before, quotactl(2) needs the block device's path.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import os
import struct

from allocpolicy.record import dataclass
from allocpolicy.storage import fsxattr, libc, mount
from allocpolicy.storage.failure import UNSUPPORTED

_SYS_QUOTACTL_FD = 443  # on all architectures but alpha
_Q_GETQUOTA = 0x800007
_SUBCMDSHIFT = 8
# Limits in blocks of 1 KiB, space in bytes, inodes, grace times; a mask of valid ones.
_DQBLK = struct.Struct("=8QL4x")
_BLOCK = 1024
# No quota of that kind (ESRCH), no record of that id (ENOENT), no quota at all, no
# permission to read it, or no block device.
_NONE = UNSUPPORTED | {
    errno.ESRCH,
    errno.ENOENT,
    errno.EINVAL,
    errno.EPERM,
    errno.EACCES,
    errno.ENODEV,
    errno.ENOTBLK,
    errno.EROFS,  # the kernel treats a query as a write
}


class QuotaType(enum.IntEnum):
    """Whom a quota applies to; the numbers are the kernel's."""

    USER = 0
    GROUP = 1
    PROJECT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """The bytes that one id uses and may use; None means no limit.

    ``soft_limit`` may be exceeded for a time. Root (CAP_SYS_RESOURCE) is bound by a
    project's limits only.
    """

    id: int
    used: int
    soft_limit: int | None
    hard_limit: int | None


def quotas(directory: int) -> dict[QuotaType, Quota]:
    """Return the quotas that apply to our new files in an open directory.

    Those of the effective user and group, and of the project that files inherit from
    the directory; quotas that are off or unreadable are missing.
    """
    ids = {QuotaType.USER: os.geteuid(), QuotaType.GROUP: os.getegid()}
    project = _inherited_project(directory)
    if project:
        ids[QuotaType.PROJECT] = project
    found = {kind: read(directory, kind=kind, id=one) for kind, one in ids.items()}
    return {kind: quota for kind, quota in found.items() if quota is not None}


def read(fd: int, *, kind: QuotaType, id: int) -> Quota | None:
    """Return the quota of an id on the open file's filesystem, or None.

    :raises OSError: when there is one, but it can't be read.
    """
    buffer = ctypes.create_string_buffer(_DQBLK.size)
    try:
        _by_descriptor(fd, kind, id, buffer)
    except OSError as error:
        if error.errno not in _NONE:
            raise
        return None
    hard, soft, used, *_ = _DQBLK.unpack(buffer.raw)
    return Quota(
        id=id,
        used=used,
        soft_limit=soft * _BLOCK or None,
        hard_limit=hard * _BLOCK or None,
    )


def _by_descriptor(
    fd: int, kind: QuotaType, id: int, buffer: ctypes.Array[ctypes.c_char]
) -> None:
    command = ctypes.c_uint(_Q_GETQUOTA << _SUBCMDSHIFT | kind)
    try:
        libc.call("syscall", _SYS_QUOTACTL_FD, fd, command, ctypes.c_uint(id), buffer)
    except OSError as error:
        if error.errno != errno.ENOSYS:
            raise
        by_device(mount.of(fd).source, kind, id, buffer)


def by_device(
    device: str, kind: QuotaType, id: int, buffer: ctypes.Array[ctypes.c_char]
) -> None:
    """Fill the buffer by the call of kernels before 5.14.

    :raises OSError: as quotactl(2).
    """
    command = ctypes.c_int(_Q_GETQUOTA << _SUBCMDSHIFT | kind)
    libc.call("quotactl", command, os.fsencode(device), ctypes.c_int(id), buffer)


def _inherited_project(directory: int) -> int:
    """Return the project of new files in the directory; 0 means none."""
    try:
        found = fsxattr.read(directory)
    except OSError:
        return 0
    return found.project if found.flags & fsxattr.FS_XFLAG_PROJINHERIT else 0
