"""Leases on files, fcntl(2): F_SETLEASE tells and keeps that nobody else has one open.

A write lease is refused while anybody else has the file open; whoever opens it later
waits (/proc/sys/fs/lease-break-time, 45 s) and breaks it, which F_GETLEASE tells. Only
the file's owner and root can have one. Our descriptor must be the only one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import signal
from collections.abc import Collection, Iterator
from pathlib import Path

# The filesystem has no leases (NFS), or the file is neither ours nor are we root.
NO_LEASES = frozenset({errno.EINVAL, errno.ENOLCK, errno.EACCES, errno.EPERM})


@contextlib.contextmanager
def held(fd: int) -> Iterator[None]:
    """Hold a write lease on the open file while the body runs.

    :raises OSError: EAGAIN while somebody else has the file open, one of `NO_LEASES`
        where there are none.
    """
    # The break is told by SIGIO, whose default action kills; that of SIGURG does
    # nothing, and no other thread's handlers are touched.
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    try:
        yield
    finally:
        # EAGAIN: there is none any more, as whoever opened the file waited long enough.
        with contextlib.suppress(BlockingIOError):
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def is_whole(fd: int) -> bool:
    """Return whether the lease on the file is as it was taken: nobody opened it."""
    return fcntl.fcntl(fd, fcntl.F_GETLEASE) == fcntl.F_WRLCK


def is_open_elsewhere(fd: int) -> bool:
    """Return whether somebody else has the file open; False where it can't be told."""
    try:
        with held(fd):
            return False
    except OSError as error:
        if error.errno in NO_LEASES:
            return False
        if error.errno != errno.EAGAIN:
            raise
        return True


def leased_inodes(*, devices: Collection[str] | None = None) -> frozenset[int]:
    """Return the inode numbers of the files under a lease: to open one breaks it.

    Of /proc/locks (proc_locks(5)).

    :param devices: only of these, as "major:minor"; a btrfs subvolume's files have
        the device there that mountinfo has, not the one that stat(2) tells.
    """
    lines = Path("/proc/locks").read_text().splitlines()
    leases = (line.split() for line in lines if " LEASE " in line)
    files = (field for fields in leases for field in fields if field.count(":") == 2)
    found = (file.split(":") for file in files)
    return frozenset(
        int(inode)
        for major, minor, inode in found
        if devices is None or f"{int(major, 16)}:{int(minor, 16)}" in devices
    )
