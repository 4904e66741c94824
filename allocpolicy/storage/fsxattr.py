"""Extended inode attributes: FS_IOC_FSGETXATTR and FS_IOC_FSSETXATTR.

Source: ioctl_xfs_fsgetxattr(2) and include/uapi/linux/fs.h; ext4 and btrfs have the
calls too, with fewer fields.
"""

from __future__ import annotations

import fcntl
import struct
from operator import attrgetter

from allocpolicy.record import dataclass

FS_IOC_FSGETXATTR = 0x801C581F
FS_IOC_FSSETXATTR = 0x401C5820
FS_XFLAG_REALTIME = 0x1
FS_XFLAG_PROJINHERIT = 0x200
FS_XFLAG_EXTSIZE = 0x800
FS_XFLAG_EXTSZINHERIT = 0x1000
FS_XFLAG_NODEFRAG = 0x2000
FS_XFLAG_FILESTREAM = 0x4000
FS_XFLAG_COWEXTSIZE = 0x10000
_FSXATTR = struct.Struct("=5L8x")
_FIELDS = ("flags", "extent_size", "extents", "project", "cow_extent_size")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fsxattr:
    """The fields of struct fsxattr; sizes in bytes."""

    flags: int
    extent_size: int
    extents: int
    project: int
    cow_extent_size: int


def read(fd: int) -> Fsxattr:
    """Return the attributes of an open file.

    :raises OSError: ENOTTY or EOPNOTSUPP where the filesystem has none.
    """
    answer = fcntl.ioctl(fd, FS_IOC_FSGETXATTR, bytes(_FSXATTR.size))
    values = _FSXATTR.unpack(answer)
    return Fsxattr(**dict(zip(_FIELDS, values, strict=True)))


def write(fd: int, attributes: Fsxattr) -> None:
    """Set the attributes of an open file.

    :raises OSError: EINVAL or EOPNOTSUPP for what the filesystem does not support.
    """
    fcntl.ioctl(fd, FS_IOC_FSSETXATTR, _FSXATTR.pack(*attrgetter(*_FIELDS)(attributes)))
