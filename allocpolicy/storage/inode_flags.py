"""Inode flags, as chattr(1) sets them: FS_IOC_GETFLAGS and FS_IOC_SETFLAGS."""

from __future__ import annotations

import enum
import fcntl
import struct

from allocpolicy.storage.failure import FAULTS

FS_IOC_GETFLAGS = 0x80086601
FS_IOC_SETFLAGS = 0x40086602
# The kernel reads and writes an int, although the macro says long.
_INT = struct.Struct("=l")
_LONG_SIZE = 8


class InodeFlag(enum.IntFlag):
    """The flags that matter here (include/uapi/linux/fs.h).

    ``CARRIED`` are the flags that a replacement takes over from the file.
    """

    COMPR = 0x00000004
    SYNC = 0x00000008
    APPEND = 0x00000020
    NODUMP = 0x00000040
    NOATIME = 0x00000080
    NOCOMP = 0x00000400
    JOURNAL_DATA = 0x00004000
    NOCOW = 0x00800000
    DAX = 0x02000000
    CARRIED = COMPR | SYNC | NODUMP | NOATIME | NOCOMP | JOURNAL_DATA | NOCOW | DAX


def read(fd: int) -> int:
    """Return the inode's flag bits.

    :raises OSError: ENOTTY or EOPNOTSUPP where the filesystem has none.
    """
    buffer = bytearray(_LONG_SIZE)
    fcntl.ioctl(fd, FS_IOC_GETFLAGS, buffer)
    return int(_INT.unpack_from(buffer)[0])


def add(fd: int, flags: InodeFlag) -> None:
    """Set flags; btrfs accepts NOCOW only while the file is empty.

    :raises OSError: EOPNOTSUPP or EINVAL where the filesystem does not support them.
    """
    write(fd, read(fd) | flags)


def remove(fd: int, flags: InodeFlag) -> None:
    """Clear flags; without COMPR btrfs forgets the property `compression`, too.

    :raises OSError: as `add`.
    """
    found = read(fd)
    if found & flags:
        write(fd, found & ~flags)


def write(fd: int, flags: int) -> None:
    """Set the inode's flag bits, and clear those that are not in ``flags``.

    :raises OSError: as `add`.
    """
    buffer = bytearray(_LONG_SIZE)
    _INT.pack_into(buffer, 0, flags)
    fcntl.ioctl(fd, FS_IOC_SETFLAGS, buffer)


def has(fd: int, flag: InodeFlag) -> bool:
    """Return whether the flag is set; False where the filesystem has no flags."""
    try:
        return bool(read(fd) & int(flag))  # an IntFlag's own operators are slow
    except OSError as error:
        if error.errno in FAULTS:
            raise
        return False
