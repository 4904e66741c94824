"""XFS's extent-size hint: storage is allocated in pieces of at least that size.

qemu-img sets 1 MiB on the images it makes; interleaved writes of a guest then leave
hundreds of extents where there would be millions.
"""

from __future__ import annotations

import errno

from allocpolicy.storage import fsxattr
from allocpolicy.storage.failure import UNSUPPORTED

HINT = 1 << 20


def hint(fd: int) -> None:
    """Set the hint on a file that has no extent yet; nothing happens elsewhere.

    A hint that the file has already, of its directory or of the disk that it replaces,
    is somebody's choice and stays.

    :raises OSError: when the filesystem knows the hint and refuses it.
    """
    try:
        found = fsxattr.read(fd)
        if found.flags & fsxattr.FS_XFLAG_EXTSIZE:
            return
        flags = found.flags | fsxattr.FS_XFLAG_EXTSIZE
        fsxattr.write(fd, found._replace(flags=flags, extent_size=HINT))
    except OSError as error:
        # EINVAL: ext4 and btrfs have the call, and no such hint.
        if error.errno not in UNSUPPORTED | {errno.EINVAL, errno.EPERM}:
            raise
