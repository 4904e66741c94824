"""XFS's extent-size hint: it allocates storage in pieces of at least that size.

qemu-img sets 1 MiB on the images it creates: a guest's interleaved writes then leave
hundreds of extents instead of millions. Where a guest's discards punch holes, a hint
larger than a qcow2's clusters gives storage to the free clusters beside each new one.
"""

from __future__ import annotations

import errno

from allocpolicy.record import replace
from allocpolicy.storage import fsxattr
from allocpolicy.storage.failure import UNSUPPORTED

HINT = 1 << 20


def hint(fd: int, *, size: int = HINT) -> None:
    """Set the hint on a file without extents; do nothing on other filesystems.

    It replaces a hint inherited from the directory: with a large one, a reservation
    takes more than was asked for.

    :raises OSError: when the filesystem knows the hint and refuses it.
    """
    try:
        found = fsxattr.read(fd)
        flags = found.flags | fsxattr.FS_XFLAG_EXTSIZE
        fsxattr.write(fd, replace(found, flags=flags, extent_size=size))
    except OSError as error:
        # EINVAL: ext4 and btrfs have the call, but no such hint.
        if error.errno not in UNSUPPORTED | {errno.EINVAL, errno.EPERM}:
            raise


def of(fd: int) -> int:
    """Return the open file's hint in bytes; 0 where there is none."""
    try:
        return fsxattr.read(fd).extent_size
    except OSError as error:
        if error.errno not in UNSUPPORTED | {errno.EINVAL, errno.EPERM}:
            raise
        return 0


def carry(source: int, target: int) -> None:
    """Give a file without extents the hint of another, if that has one.

    :raises OSError: as `hint`.
    """
    if size := of(source):
        hint(target, size=size)
