"""Disk quota for new files in a directory: quotactl_fd(2), quotactl(2).

Q_GETQUOTA and struct if_dqblk of include/uapi/linux/quota.h, which ext4 and xfs answer
alike. quotactl_fd(2) came with Linux 5.14; before, the block device is named.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import os
import struct
from dataclasses import dataclass

from allocpolicy.storage import fsxattr, libc, mount
from allocpolicy.storage.failure import UNSUPPORTED

_SYS_QUOTACTL_FD = 443  # on all architectures but alpha
_Q_GETQUOTA = 0x800007
_SUBCMDSHIFT = 8
# Limits in blocks of 1 KiB, space in bytes, inodes, grace times; which are valid.
_DQBLK = struct.Struct("=8QL4x")
_BLOCK = 1024
# No quota of that kind (ESRCH), no record of that id (ENOENT), no quota at all, not
# ours to read, or no block device.
_NONE = UNSUPPORTED | {
    errno.ESRCH,
    errno.ENOENT,
    errno.EINVAL,
    errno.EPERM,
    errno.EACCES,
    errno.ENODEV,
    errno.ENOTBLK,
    errno.EROFS,  # to the kernel, asking is writing
}


class QuotaType(enum.IntEnum):
    """Who a quota is for; the numbers are the kernel's."""

    USER = 0
    GROUP = 1
    PROJECT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """Bytes that one id has, and may have; None is no limit.

    ``soft_limit`` may be exceeded for a time. Neither binds root (CAP_SYS_RESOURCE),
    but for a project's.
    """

    id: int
    used: int
    soft_limit: int | None
    hard_limit: int | None


def quotas(directory: int) -> dict[QuotaType, Quota]:
    """Return the quotas that bind our new files in an open directory.

    Those of the effective user and group, and of the project that the directory hands
    down; those that are off, or can't be read, are missing.
    """
    ids = {QuotaType.USER: os.geteuid(), QuotaType.GROUP: os.getegid()}
    project = _inherited_project(directory)
    if project:
        ids[QuotaType.PROJECT] = project
    found = {kind: read(directory, kind=kind, id=one) for kind, one in ids.items()}
    return {kind: quota for kind, quota in found.items() if quota is not None}


def read(fd: int, *, kind: QuotaType, id: int) -> Quota | None:
    """Return the quota of an id on the open file's filesystem, or None.

    :raises OSError: when it is there, and can't be read.
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
    """Fill the buffer as kernels before 5.14 do it.

    :raises OSError: as quotactl(2).
    """
    command = ctypes.c_int(_Q_GETQUOTA << _SUBCMDSHIFT | kind)
    libc.call("quotactl", command, os.fsencode(device), ctypes.c_int(id), buffer)


def _inherited_project(directory: int) -> int:
    """Return the project of new files in the directory; 0 is none."""
    try:
        found = fsxattr.read(directory)
    except OSError:
        return 0
    return found.project if found.flags & fsxattr.FS_XFLAG_PROJINHERIT else 0
