"""Which file it is, whatever its names are, and how it was when it was looked at.

Whoever writes to a file sets its ctime to the clock's time, and nobody can put that
back, as utime(2) puts back mtime. What that can't tell is in `storage.unchanged`.
"""

from __future__ import annotations

import os

_SETTLED = 2_000_000_000  # nanoseconds: many ticks of any clock

Inode = tuple[int, int]  # (device, number)
Marks = tuple[int, int, int]  # (size in bytes, mtime in ns, ctime in ns)


def inode(status: os.stat_result) -> Inode:
    """Return (device, inode number), as stat(2) has them."""
    return status.st_dev, status.st_ino


def marks(status: os.stat_result) -> Marks:
    """Return what a write changes of a file, as stat(2) has it."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def is_settled(ctime: int, *, at: int) -> bool:
    """Return whether whatever is written from then on makes another ctime of it.

    The clock ticks in steps of up to 10 ms before Linux 6.13: a second write in a tick
    leaves ctime as it is.

    :param ctime: nanoseconds since 1970.
    :param at: likewise, of before the ctime was asked for.
    """
    return ctime < at - _SETTLED
