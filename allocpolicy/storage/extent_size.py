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

    One that the file has of its directory is replaced: of a large one, a reservation
    takes more than it says.

    :raises OSError: when the filesystem knows the hint and refuses it.
    """
    try:
        found = fsxattr.read(fd)
        flags = found.flags | fsxattr.FS_XFLAG_EXTSIZE
        fsxattr.write(fd, found._replace(flags=flags, extent_size=HINT))
    except OSError as error:
        # EINVAL: ext4 and btrfs have the call, and no such hint.
        if error.errno not in UNSUPPORTED | {errno.EINVAL, errno.EPERM}:
            raise
