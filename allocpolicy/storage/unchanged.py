"""Whether a file is as it was: by what the kernel changes at each write.

A write, a truncation and the first store through a mapping set the file's ctime to the
clock's time, and nobody can put that back, as utime(2) puts back mtime. Three things
could hide a write all the same, and none does if they are asked for in this order: the
state, the content, whether it `is_quiet`, the state once more. All of that is of one
`mounting`: fdatasync(2) stores data and no ctime, and a filesystem that loses its
device, and is mounted again, has what was written since at the old ctime.

- The clock ticks in steps of up to 10 ms before Linux 6.13: a second write in a tick
  leaves ctime as it is. What `is_settled` is many ticks old.
- Who has the file open for writing may have begun a direct write, or keep a page mapped
  that was stored to before: what comes then changes no ctime. Nobody has it open when
  it `is_quiet`, and who opens it later begins anew.
- Not every filesystem keeps to this (`is_dated`). A store through a mapping on tmpfs
  changes nothing that can be seen, and what FUSE, NFS and overlayfs show of a file may
  be another's word.

A file that is exchanged with another one's extents and back (XFS_IOC_SWAPEXT, by a
process that may write to it) keeps its ctime, and so does one whose device was written
to below the filesystem.
"""

from __future__ import annotations

import fcntl
import os
import struct

from allocpolicy.storage import inode, lease, mount, read_lease

FS_IOC_GETVERSION = 0x80087601
_VERSION = struct.Struct(
    "=i4x"
)  # the kernel writes an int, although the macro says long
_DATED = frozenset({"ext4", "xfs", "btrfs"})  # ext2 and ext3 have ext4's number

#: inode number, generation, size, and mtime and ctime in nanoseconds
State = tuple[int, int, int, int, int]


def state(fd: int) -> State:
    """Return what tells one state of an open file from all others on its filesystem.

    :raises OSError: where the filesystem has no generations.
    """
    status = os.fstat(fd)
    answer = fcntl.ioctl(fd, FS_IOC_GETVERSION, bytes(_VERSION.size))
    (generation,) = _VERSION.unpack(answer)
    return (status.st_ino, generation, *inode.marks(status))


def is_seen(known: State, status: os.stat_result) -> bool:
    """Return whether a file that is not open seems to be in a known state."""
    number, _, *marks = known
    return (number, *marks) == (status.st_ino, *inode.marks(status))


def is_settled(known: State, *, at: int) -> bool:
    """Return whether whatever is written from then on makes another state of the file.

    :param at: nanoseconds since 1970, of before the state was asked for.
    """
    return inode.is_settled(known[-1], at=at)


def is_dated(fd: int) -> bool:
    """Return whether the open file's filesystem shows each change by the ctime."""
    return mount.type_by_magic(fd) in _DATED


def is_quiet(fd: int) -> bool:
    """Return whether nobody has the file open for writing; False if that is unknown.

    For that moment we hold a read lease on it: who opens it for writing just then waits
    until we have given it up again.
    """
    try:
        if not read_lease.take(fd):
            return False
        lease.give_up(fd)
    except OSError:
        return False
    return True
