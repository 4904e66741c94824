"""XFS's extent-size hint: storage is allocated in pieces of at least that size.

qemu-img sets 1 MiB on the images it makes; interleaved writes of a guest then leave
hundreds of extents where there would be millions. Source: ioctl_xfs_fsgetxattr(2).
"""

from __future__ import annotations

import errno
import fcntl
import struct

from allocpolicy.storage.failure import UNSUPPORTED

FS_IOC_FSGETXATTR = 0x801C581F
FS_IOC_FSSETXATTR = 0x401C5820
FS_XFLAG_EXTSIZE = 0x800
HINT = 1 << 20
_FSXATTR = struct.Struct("=5L8x")  # xflags, extsize, nextents, projid, cowextsize


def hint(fd: int) -> None:
    """Set the hint on a file that has no extent yet; nothing happens elsewhere.

    :raises OSError: when the filesystem knows the hint and refuses it.
    """
    try:
        answer = fcntl.ioctl(fd, FS_IOC_FSGETXATTR, bytes(_FSXATTR.size))
        flags, _, extents, project, cow_size = _FSXATTR.unpack(answer)
        fields = (flags | FS_XFLAG_EXTSIZE, HINT, extents, project, cow_size)
        fcntl.ioctl(fd, FS_IOC_FSSETXATTR, _FSXATTR.pack(*fields))
    except OSError as error:
        # EINVAL: ext4 and btrfs have the call, and no such hint.
        if error.errno not in UNSUPPORTED | {errno.EINVAL, errno.EPERM}:
            raise
