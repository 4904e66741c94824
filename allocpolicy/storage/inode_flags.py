"""Inode flags, as chattr(1) sets them: FS_IOC_GETFLAGS and FS_IOC_SETFLAGS."""

from __future__ import annotations

import enum
import fcntl
import struct

FS_IOC_GETFLAGS = 0x80086601
FS_IOC_SETFLAGS = 0x40086602
_LONG = struct.Struct(
    "=l"
)  # the kernel reads and writes an int, whatever the macro says


class InodeFlag(enum.IntFlag):
    """The flags that matter to allocation (include/uapi/linux/fs.h)."""

    NOCOW = 0x00800000


def read(fd: int) -> int:
    """Return the inode's flag bits.

    :raises OSError: ENOTTY or EOPNOTSUPP where the filesystem has none.
    """
    buffer = bytearray(_LONG.size + 4)
    fcntl.ioctl(fd, FS_IOC_GETFLAGS, buffer)
    return int(_LONG.unpack_from(buffer)[0])


def add(fd: int, flag: InodeFlag) -> None:
    """Set a flag; btrfs takes NOCOW only while the file is empty.

    :raises OSError: EOPNOTSUPP or EINVAL where the filesystem does not know it.
    """
    buffer = bytearray(_LONG.size + 4)
    _LONG.pack_into(buffer, 0, read(fd) | flag)
    fcntl.ioctl(fd, FS_IOC_SETFLAGS, buffer)


def has(fd: int, flag: InodeFlag) -> bool:
    """Return whether the flag is set; False where the filesystem has no flags."""
    try:
        return bool(read(fd) & flag)
    except OSError:
        return False
