"""Which files somebody has a lease on: /proc/locks (proc_locks(5)).

Whoever rewrites a disk has a lease on it (F_SETLEASE of fcntl(2)), and gives up when
somebody opens the disk: a look at it can wait.
"""

from __future__ import annotations

import os
from pathlib import Path

from allocpolicy.storage import filesystem

Leases = frozenset[tuple[str, int]]


def leases() -> Leases:
    """Return the (device as major:minor, inode number) of each file with a lease."""
    lines = Path("/proc/locks").read_text().splitlines()
    found = [line.split() for line in lines]
    return frozenset(
        _file(fields[5])
        for fields in found
        if len(fields) > 5 and fields[1] == "LEASE" and fields[5].count(":") == 2
    )


def is_leased(path: Path, *, among: Leases) -> bool:
    """Return whether one of the leases is on the file; it is not opened for that.

    :raises OSError: when it is not there.
    """
    number = os.stat(path).st_ino
    devices = {device for device, inode in among if inode == number}
    if not devices:
        return False
    # btrfs has another device there, and in mountinfo, than stat(2) tells.
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)  # breaks no lease
    try:
        return filesystem.mount_of(fd).device in devices
    finally:
        os.close(fd)


def _file(field: str) -> tuple[str, int]:
    """Parse ``MAJOR:MINOR:INODE``, of which the first two are hexadecimal."""
    major, minor, inode = field.split(":")
    return f"{int(major, 16)}:{int(minor, 16)}", int(inode)
