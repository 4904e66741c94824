"""Exchanging two names atomically: renameat2(2) with RENAME_EXCHANGE (Linux 3.15)."""

from __future__ import annotations

import errno
import os

from allocpolicy.storage import libc

RENAME_EXCHANGE = 2
# Unsupported: EINVAL (NFS, old FUSE), ENOSYS where the call is missing.
NO_EXCHANGE = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})


def exchange(first: str, second: str, *, directory: int) -> None:
    """Exchange the files behind two names in one directory, atomically.

    :raises OSError: one of `NO_EXCHANGE` where it is unsupported.
    """
    names = os.fsencode(first), os.fsencode(second)
    libc.call("renameat2", directory, names[0], directory, names[1], RENAME_EXCHANGE)
