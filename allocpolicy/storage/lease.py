"""Leases on files, fcntl(2): F_SETLEASE ensures that no other process has one open.

A write lease is refused while anybody else has the file open. A process that opens it
later waits (/proc/sys/fs/lease-break-time, 45 s) and breaks it, which F_GETLEASE shows.
Only the file's owner and root can have one. Our descriptor must be the only one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
from collections.abc import Collection, Iterator
from pathlib import Path

from allocpolicy.storage import mount

# The filesystem has no leases (NFS), or the file is neither ours nor are we root.
NO_LEASES = frozenset({errno.EINVAL, errno.ENOLCK, errno.EACCES, errno.EPERM})


@contextlib.contextmanager
def held(fd: int) -> Iterator[None]:
    """Hold a write lease on the open file while the body runs.

    :raises OSError: EAGAIN while somebody else has the file open, one of `NO_LEASES`
        where there are none.
    """
    # SIGIO, whose default action kills, would announce the break; that of SIGURG does
    # nothing, and no other thread's handlers are touched.
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    try:
        yield
    finally:
        # EAGAIN: there is none any more, as the opener waited long enough.
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


def is_leased(path: Path) -> bool:
    """Return whether somebody has a lease on the file: it may be being rewritten.

    :raises OSError: as open(2).
    """
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)  # which breaks no lease
    try:
        inode = os.fstat(fd).st_ino
        # Few inodes are under a lease: most need no look at the mounts.
        if inode not in leased_inodes():
            return False
        return inode in leased_inodes(devices=lock_devices(fd))
    finally:
        os.close(fd)


def leased_inodes(*, devices: Collection[str] | None = None) -> frozenset[int]:
    """Return the inode numbers of the files under a lease: opening one breaks it.

    :param devices: only of these, as `lock_devices` returns them.
    """
    return frozenset(
        inode for device, inode in _leases() if devices is None or device in devices
    )


def lock_devices(fd: int) -> frozenset[str]:
    """Return the devices that /proc/locks may name for the open file: "major:minor".

    That of its mount and that of stat(2), which differ on btrfs.
    """
    return frozenset({mount.of(fd).device, mount.device_number(fd)})


def _leases() -> Iterator[tuple[str, int]]:
    """Yield (device, inode) of each lease that /proc/locks lists (proc_locks(5))."""
    for line in Path("/proc/locks").read_text().splitlines():
        if " LEASE " not in line:
            continue
        for field in line.split():
            if field.count(":") == 2:
                major, minor, inode = field.split(":")
                yield f"{int(major, 16)}:{int(minor, 16)}", int(inode)
