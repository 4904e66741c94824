"""Which file it is, whatever its names are."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from allocpolicy.storage.failure import UNSUPPORTED

Inode = tuple[int, int]  # (device, number)


def inode(status: os.stat_result) -> Inode:
    """Return (device, inode number), as stat(2) has them."""
    return status.st_dev, status.st_ino


# FS_IOC_GETVERSION (ioctl_iflags(2)): _IOR('v', 1, long), the kernel writes an int.
_FS_IOC_GETVERSION = 0x80087601
_GENERATION = struct.Struct("=i4x")


def generation(fd: int) -> int | None:
    """Return which file of its inode number it is; None where that isn't told."""
    buffer = bytearray(_GENERATION.size)
    try:
        fcntl.ioctl(fd, _FS_IOC_GETVERSION, buffer)
    except OSError as error:
        if error.errno not in UNSUPPORTED | {errno.EINVAL, errno.EPERM}:
            raise
        return None
    number: int = _GENERATION.unpack(buffer)[0]
    return number
